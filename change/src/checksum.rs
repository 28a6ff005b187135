/// Rows and sum of the row hashes of those rows of a table whose keys' hashes fall into one bucket.
///
/// Source and lake compute it alike, so equal sums of all buckets mean equal rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketSum {
    pub bucket: u8,
    pub rows: u64,
    pub sum: i128,
}
