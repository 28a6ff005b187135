//! Products with their categories and prices over time.

use fake::Fake;
use fake::faker::company::en::CompanyName;
use rand::RngExt;

use super::{DAY, Draw, normal, stream};

struct Kind {
    category: &'static str,
    department: &'static str,
    /// Used up and bought again.
    consumable: bool,
    /// Typical price in cents.
    price: f64,
    nouns: [&'static str; 4],
}

const fn kind(
    department: &'static str,
    category: &'static str,
    consumable: bool,
    price: f64,
    nouns: [&'static str; 4],
) -> Kind {
    Kind { category, department, consumable, price, nouns }
}

const KINDS: [Kind; 20] = [
    kind(
        "Grocery",
        "Coffee and tea",
        true,
        750.0,
        ["Espresso beans", "Ground coffee", "Green tea", "Earl Grey"],
    ),
    kind("Pets", "Pet food", true, 1450.0, ["Cat food", "Dog food", "Dog biscuits", "Bird seed"]),
    kind("Electronics", "Headphones", false, 6900.0, ["Earbuds", "Headphones", "Headset", "Speaker"]),
    kind("Home", "Kitchenware", false, 2900.0, ["Saucepan", "Chef's knife", "Mixing bowl", "Baking tray"]),
    kind("Grocery", "Breakfast", true, 420.0, ["Muesli", "Corn flakes", "Oat flakes", "Honey"]),
    kind("Household", "Cleaning", true, 560.0, ["Detergent", "Dish soap", "Surface spray", "Sponges"]),
    kind("Beauty", "Skin care", true, 1650.0, ["Day cream", "Sun lotion", "Face wash", "Lip balm"]),
    kind("Leisure", "Books", false, 1590.0, ["Novel", "Cookbook", "Travel guide", "Biography"]),
    kind("Grocery", "Snacks", true, 260.0, ["Potato chips", "Salted nuts", "Dark chocolate", "Crackers"]),
    kind("Household", "Paper goods", true, 640.0, ["Kitchen roll", "Tissues", "Toilet paper", "Napkins"]),
    kind("Clothing", "Socks and underwear", false, 1190.0, ["Wool socks", "Trainer socks", "Briefs", "Vest"]),
    kind("Grocery", "Pasta and rice", true, 240.0, ["Spaghetti", "Penne", "Basmati rice", "Risotto rice"]),
    kind("Beauty", "Hair care", true, 690.0, ["Shampoo", "Conditioner", "Hair mask", "Styling gel"]),
    kind("Home", "Garden", false, 2300.0, ["Secateurs", "Plant pot", "Watering can", "Garden hose"]),
    kind("Pets", "Pet care", true, 890.0, ["Cat litter", "Flea collar", "Dog shampoo", "Chew toy"]),
    kind("Baby", "Nappies", true, 1890.0, ["Nappies", "Wet wipes", "Pull-ups", "Changing mats"]),
    kind("Leisure", "Toys", false, 2490.0, ["Wooden train", "Puzzle", "Building blocks", "Board game"]),
    kind("Grocery", "Drinks", true, 380.0, ["Orange juice", "Sparkling water", "Cola", "Oat drink"]),
    kind(
        "Electronics",
        "Cables and power",
        false,
        1790.0,
        ["USB-C cable", "Charger", "Power bank", "Adapter"],
    ),
    kind("Health", "Vitamins", true, 1290.0, ["Vitamin C", "Vitamin D", "Magnesium", "Omega 3"]),
];
const VARIANTS: [&str; 6] = ["Classic", "Original", "Select", "Plus", "Premium", "Everyday"];

pub(crate) struct Product {
    pub(crate) product_id: i64,
    pub(crate) name: String,
    pub(crate) category: u32,
    pub(crate) brand: String,
    pub(crate) stock: i32,
    pub(crate) created_at: i64,
    /// (from when, cents), oldest first; the first is the price since creation.
    pub(crate) prices: Vec<(i64, i64)>,
}

impl Product {
    pub(crate) fn price_at(&self, time: i64) -> i64 {
        let changes = self.prices.partition_point(|(from, _)| *from <= time);
        self.prices[changes.max(1) - 1].1
    }

    pub(crate) fn last_price(&self) -> (i64, i64) {
        self.prices[self.prices.len() - 1]
    }
}

/// Name and department of category number `category`; after the list is used up it starts again with a number.
pub(crate) fn category(category: u32) -> (String, &'static str) {
    let kind = &KINDS[category as usize % KINDS.len()];
    match category as usize / KINDS.len() {
        0 => (kind.category.to_owned(), kind.department),
        round => (format!("{} {}", kind.category, round + 1), kind.department),
    }
}

/// Whether products of the named category are used up and bought again. True for names that are not ours.
pub(crate) fn is_consumable(category: &str) -> bool {
    KINDS.iter().find(|kind| category.starts_with(kind.category)).is_none_or(|kind| kind.consumable)
}

/// `count` products in `categories` categories as a shop open since `start` has them at `end` (microseconds).
pub(crate) fn products(seed: u64, count: u32, categories: u32, start: i64, end: i64) -> Vec<Product> {
    let mut rng = stream(seed, Draw::Catalogue, 0);
    let brands: Vec<String> = (0..count / 12 + 3).map(|_| CompanyName().fake_with_rng(&mut rng)).collect();
    (0..count)
        .map(|index| {
            // The first of each category in turn, so that none is empty; then by chance, early categories larger.
            let category = if index < categories {
                index
            } else {
                (rng.random::<f64>().powf(1.3) * f64::from(categories)) as u32
            };
            let kind = &KINDS[category as usize % KINDS.len()];
            let brand = brands[rng.random_range(0..brands.len())].clone();
            let noun = kind.nouns[rng.random_range(0..kind.nouns.len())];
            let variant = VARIANTS[rng.random_range(0..VARIANTS.len())];
            let price = kind.price * (0.45 * normal(&mut rng)).exp();
            Product {
                product_id: i64::from(index) + 1,
                name: format!("{brand} {noun} {variant}"),
                category,
                brand,
                stock: rng.random_range(500..2500),
                created_at: start - rng.random_range(0..365 * DAY),
                prices: prices(seed, index, price, start, end),
            }
        })
        .collect()
}

/// A price that changes about every 75 days by some percent, ending in 9 cents.
fn prices(seed: u64, product: u32, first: f64, start: i64, end: i64) -> Vec<(i64, i64)> {
    let mut rng = stream(seed, Draw::Prices, u64::from(product));
    let shelf = |price: f64| ((price / 10.0).round() as i64 * 10 - 1).max(9);
    let mut price = first;
    let mut time = start - 365 * DAY;
    let mut prices = vec![(time, shelf(price))];
    loop {
        time += rng.random_range(20 * DAY..130 * DAY);
        price *= (0.01 + 0.06 * normal(&mut rng)).exp();
        if time >= end {
            return prices;
        }
        if time >= start && shelf(price) != prices[prices.len() - 1].1 {
            prices.push((time, shelf(price)));
        }
    }
}
