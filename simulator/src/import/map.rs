use std::str::FromStr;

use crate::error::Error;

/// Which column of a file of order lines holds what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrdersMap {
    pub user: String,
    pub product: String,
    pub time: String,
    /// Without it, lines of one user at one time are an order.
    pub order: Option<String>,
    /// A key of the line. Without it, an order holds a product only once.
    pub line: Option<String>,
    /// 1 without it.
    pub quantity: Option<String>,
    /// Price per unit; 0 without it.
    pub price: Option<String>,
    pub name: Option<String>,
    pub category: Option<String>,
    /// chrono's strftime format of `time`, for text that is not ISO 8601.
    pub time_format: Option<String>,
}

impl OrdersMap {
    /// The file's columns that are needed, each once.
    pub(crate) fn columns(&self) -> Vec<&str> {
        let optional = [&self.order, &self.line, &self.quantity, &self.price, &self.name, &self.category];
        let mut columns = vec![self.user.as_str(), &self.product, &self.time];
        for column in optional.into_iter().flatten() {
            if !columns.contains(&column.as_str()) {
                columns.push(column);
            }
        }
        columns
    }
}

impl FromStr for OrdersMap {
    type Err = Error;

    /// `user=customer_id,product=sku,time=bought_at[,order=…][,quantity=…][,time_format=%d/%m/%Y]…`
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Option { name: "map", reason };
        let mut map = Self::default();
        for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
            let (key, column) = pair
                .split_once('=')
                .ok_or_else(|| wrong("needs pairs like user=COLUMN, with commas between".into()))?;
            let column = column.trim().to_owned();
            match key.trim() {
                "user" => map.user = column,
                "product" => map.product = column,
                "time" => map.time = column,
                "order" => map.order = Some(column),
                "line" => map.line = Some(column),
                "quantity" => map.quantity = Some(column),
                "price" => map.price = Some(column),
                "name" => map.name = Some(column),
                "category" => map.category = Some(column),
                "time_format" => map.time_format = Some(column),
                other => {
                    return Err(wrong(format!(
                        "does not know `{other}`; it takes user, product, time, order, line, quantity, price, name, \
                         category and time_format"
                    )));
                }
            }
        }
        for (key, column) in [("user", &map.user), ("product", &map.product), ("time", &map.time)] {
            if column.is_empty() {
                return Err(wrong(format!("needs {key}=COLUMN")));
            }
        }
        Ok(map)
    }
}
