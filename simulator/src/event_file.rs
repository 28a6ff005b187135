//! Behaviour events of a made-up shop as a file, in the columns of the public REES46 data: CSV, in order of time.
//!
//! What is put into a cart is bought more often the cheaper it is and the more its brand is liked, and by who looks
//! longer: a model has something to find.

use std::io::{self, Write};

use chrono::{DateTime, TimeDelta, Utc};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use uuid::Builder;

/// What the file is to hold.
#[derive(Debug, Clone)]
pub struct EventFileOptions {
    pub rows: u64,
    /// The same options with the same seed give the same bytes.
    pub seed: u64,
    /// The first event's time.
    pub from: DateTime<Utc>,
}

const HEADER: &str =
    "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n";
const PRODUCTS: u64 = 20_000;
const USERS: u64 = 50_000;
/// Visits at the same time.
const VISITS: usize = 400;
/// Seconds between two events, at most.
const GAP: i64 = 2;
const CATEGORIES: [&str; 6] = [
    "electronics.smartphone",
    "electronics.audio.headphone",
    "appliances.kitchen.washer",
    "apparel.shoes",
    "computers.notebook",
    "",
];
/// From the best liked to no brand at all.
const BRANDS: [&str; 6] = ["samsung", "apple", "xiaomi", "bosch", "lucente", ""];

struct Visit {
    user: u64,
    session: uuid::Uuid,
    product: u64,
    seen: u32,
    in_cart: bool,
}

impl Visit {
    fn begin(rng: &mut ChaCha8Rng) -> Self {
        Self {
            user: 510_000_000 + rng.random_range(0..USERS),
            session: Builder::from_random_bytes(rng.random()).into_uuid(),
            product: rng.random_range(0..PRODUCTS),
            seen: 0,
            in_cart: false,
        }
    }

    /// What happens next, and whether the visit is over then.
    fn step(&mut self, rng: &mut ChaCha8Rng) -> (&'static str, bool) {
        let die = rng.random_range(0..1000);
        if self.in_cart {
            let liked = 600 - 80 * (self.product % BRANDS.len() as u64) as i32;
            let wanted = liked + 20 * self.seen.min(10) as i32 - (cents(self.product) / 4000) as i32;
            self.in_cart = false;
            return if die < wanted { ("purchase", true) } else { ("remove_from_cart", die > 950) };
        }
        if self.seen > 0 && die < 120 {
            self.in_cart = true;
            return ("cart", false);
        }
        if self.seen > 0 && die > 600 {
            self.product = rng.random_range(0..PRODUCTS);
        }
        self.seen += 1;
        ("view", die > 900)
    }
}

/// A product's price is always the same.
fn cents(product: u64) -> u64 {
    99 + product.wrapping_mul(2_654_435_761) % 150_000
}

/// Writes the file.
///
/// # Errors
/// What it is written to fails.
pub fn write_events(out: &mut impl Write, options: &EventFileOptions) -> io::Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut visits: Vec<Visit> = (0..VISITS).map(|_| Visit::begin(&mut rng)).collect();
    let mut time = options.from;
    out.write_all(HEADER.as_bytes())?;
    for _ in 0..options.rows {
        let place = rng.random_range(0..visits.len());
        let (kind, is_over) = visits[place].step(&mut rng);
        let Visit { user, session, product, .. } = &visits[place];
        let category = product % CATEGORIES.len() as u64;
        let cents = cents(*product);
        writeln!(
            out,
            "{},{kind},{},{},{},{},{}.{:02},{user},{session}",
            time.format("%Y-%m-%d %H:%M:%S UTC"),
            1_000_000 + product,
            2_053_013_553_000_000_000 + category,
            CATEGORIES[category as usize],
            BRANDS[(product % BRANDS.len() as u64) as usize],
            cents / 100,
            cents % 100,
        )?;
        if is_over {
            visits[place] = Visit::begin(&mut rng);
        }
        time += TimeDelta::seconds(rng.random_range(0..=GAP));
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_file() {
        let write = |seed| {
            let from = DateTime::from_timestamp(1_569_888_000, 0).expect("a time");
            let mut file = Vec::new();
            write_events(&mut file, &EventFileOptions { rows: 5_000, seed, from }).expect("memory takes it");
            String::from_utf8(file).expect("text")
        };
        let file = write(1);
        assert_eq!(file, write(1));
        assert_ne!(file, write(2));
        assert_eq!(file.lines().count(), 5_001);
        for kind in ["view", "cart", "remove_from_cart", "purchase"] {
            assert!(file.lines().filter(|line| line.contains(&format!(",{kind},"))).count() > 50, "{kind}");
        }
    }
}
