//! `lakeward source drop`

use anyhow::Result;
use lakeward_cdc::PostgresSource;

use crate::{
    config::Config,
    exit::Outcome,
    session::{Places, postgres_options},
};

#[derive(clap::Subcommand)]
pub enum Arguments {
    /// Take slot and publications out of the shop's database; the lake stays as it is
    Drop {
        #[command(flatten)]
        places: Places,
    },
}

pub async fn run(arguments: Arguments, mut config: Config, json: bool) -> Result<Outcome> {
    let Arguments::Drop { places } = arguments;
    places.apply(&mut config);
    let source = PostgresSource::open(postgres_options(&config)?).await?;
    source.drop_all().await?;
    let (slot, publication) = (source.slot_name(), source.publication_name());
    if json {
        println!("{}", serde_json::json!({ "slot": slot, "publication": publication, "dropped": true }));
    } else {
        println!(
            "Nothing of ours is left there: slot {slot}, publication {publication} and the one of inserts are gone."
        );
    }
    Ok(Outcome::Done)
}
