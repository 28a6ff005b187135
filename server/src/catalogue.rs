//! The shop's products as candidates: which there are, and which belong to a category.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use lakeward_features::OnlineStore;

/// How long a list of products may be used; a new product can be recommended after at most this time.
const MAX_AGE: Duration = Duration::from_secs(2);

pub(crate) struct Catalogue {
    read_at: Instant,
    /// All products in the order in which lists are filled up: most bought first.
    ranked: Vec<Entry>,
    ids: HashSet<String>,
    categories: HashMap<String, HashSet<String>>,
}

pub(crate) struct Entry {
    pub product_id: i64,
    pub category: Option<String>,
    pub purchases: u64,
}

impl Catalogue {
    pub fn read(store: &dyn OnlineStore) -> Self {
        let mut catalogue = Self {
            read_at: Instant::now(),
            ranked: Vec::new(),
            ids: HashSet::new(),
            categories: HashMap::new(),
        };
        for product in store.products() {
            let id = product.product_id.to_string();
            if let Some(category) = &product.category {
                catalogue.categories.entry(category.clone()).or_default().insert(id.clone());
            }
            catalogue.ids.insert(id);
            catalogue.ranked.push(Entry {
                product_id: product.product_id,
                category: product.category,
                purchases: product.purchases,
            });
        }
        catalogue.ranked.sort_unstable_by_key(|entry| (u64::MAX - entry.purchases, entry.product_id));
        catalogue
    }

    /// The ids, as models write them, of a category's products, or of all; `None` if there is no such category.
    pub fn ids(&self, category: Option<&str>) -> Option<&HashSet<String>> {
        match category {
            None => Some(&self.ids),
            Some(category) => self.categories.get(category),
        }
    }

    /// Products of a category, or all, most bought first, ties by id.
    pub fn popular<'a>(&'a self, category: Option<&'a str>) -> impl Iterator<Item = &'a Entry> {
        self.ranked.iter().filter(move |entry| category.is_none() || entry.category.as_deref() == category)
    }
}

/// Keeps the newest [`Catalogue`]. Reading one takes milliseconds for many products, so requests share it.
#[derive(Default)]
pub(crate) struct Catalogues {
    newest: ArcSwapOption<Catalogue>,
    reading: Mutex<()>,
}

impl Catalogues {
    pub fn get(&self, store: &dyn OnlineStore) -> Arc<Catalogue> {
        let held = self.newest.load_full();
        if let Some(fresh) = held.as_ref().filter(|catalogue| catalogue.read_at.elapsed() < MAX_AGE) {
            return Arc::clone(fresh);
        }
        // One request reads anew; the others go on with what is held, or wait if nothing is.
        let reading = match held {
            Some(old) => match self.reading.try_lock() {
                Ok(guard) => guard,
                Err(_) => return old,
            },
            None => {
                let guard = self.reading.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if let Some(read_meanwhile) = self.newest.load_full() {
                    return read_meanwhile;
                }
                guard
            }
        };
        let catalogue = Arc::new(Catalogue::read(store));
        self.newest.store(Some(Arc::clone(&catalogue)));
        drop(reading);
        catalogue
    }
}
