use lakeward_postgres::{EmbeddedOptions, EmbeddedPostgres};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio_postgres::Client;

// The folder is not removed at the end; a server under a home folder could not be reached by its account.
static SERVER: OnceCell<(EmbeddedPostgres, TempDir)> = OnceCell::const_new();

/// A database of one test's own, empty; the server is shared and ends with the process.
pub struct Database {
    pub url: String,
    pub client: Client,
}

impl Database {
    pub async fn new(name: &str) -> Self {
        let (server, _) = SERVER
            .get_or_init(|| async {
                let folder = tempfile::tempdir().expect("a folder");
                let options = EmbeddedOptions { fsync: false, ..EmbeddedOptions::new(folder.path()) };
                (EmbeddedPostgres::start(options).await.expect("the private server starts"), folder)
            })
            .await;
        server.create_database(name).await.unwrap();
        let url = server.url(name);
        let client = lakeward_postgres::connect(&url).await.unwrap();
        Self { url, client }
    }

    pub async fn number(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }

    pub async fn text(&self, sql: &str) -> String {
        self.client.query_one(sql, &[]).await.unwrap().get::<_, Option<String>>(0).unwrap_or_default()
    }

    /// A checksum over all rows of a table in order of its key.
    pub async fn checksum(&self, table: &str, key: &str) -> String {
        self.text(&format!("select md5(string_agg(t::text, E'\\n' order by {key})) from {table} t")).await
    }

    /// All five, in a form that a failed assertion can be read from.
    pub async fn checksums(&self) -> Vec<(&'static str, String)> {
        let mut checksums = Vec::new();
        for (table, key) in [
            ("users", "user_id"),
            ("products", "product_id"),
            ("orders", "order_id"),
            ("order_items", "order_item_id"),
            ("events", "event_id"),
        ] {
            checksums.push((table, self.checksum(table, key).await));
        }
        checksums
    }

    pub async fn assert_totals_add_up(&self) {
        let wrong = "select count(*) from orders left join (select order_id, sum(quantity * price_per_unit) as total \
                     from order_items group by order_id) as items using (order_id) \
                     where total_amount is distinct from total";
        assert_eq!(self.number(wrong).await, 0);
    }

    /// A failed load leaves nothing, not even tables.
    pub async fn assert_untouched(&self) {
        let tables = "select count(*) from pg_class where relnamespace = 'public'::regnamespace";
        assert_eq!(self.number(tables).await, 0);
    }
}
