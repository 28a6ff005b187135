//! Which tables are asked for, by patterns.

use lakeward_change::TableId;

/// Tables that an include pattern names and no exclude pattern does.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

/// `schema.table`; `*` stands for any characters; without a dot a table of any schema.
#[derive(Debug, Clone)]
struct Pattern {
    schema: String,
    table: String,
}

impl Selection {
    /// An empty `include` means every table.
    pub(crate) fn new(include: &[String], exclude: &[String]) -> Self {
        let patterns = |texts: &[String]| texts.iter().map(|text| Pattern::new(text)).collect();
        let all = ["*".to_owned()];
        Self {
            include: patterns(if include.is_empty() { &all } else { include }),
            exclude: patterns(exclude),
        }
    }

    pub(crate) fn contains(&self, table: &TableId) -> bool {
        let named = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(table));
        named(&self.include) && !named(&self.exclude)
    }
}

impl Pattern {
    fn new(text: &str) -> Self {
        let (schema, table) = text.split_once('.').unwrap_or(("*", text));
        Self { schema: schema.to_owned(), table: table.to_owned() }
    }

    fn matches(&self, table: &TableId) -> bool {
        glob(&self.schema, &table.schema) && glob(&self.table, &table.name)
    }
}

fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<_> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    // Each inner part at its first place leaves the most for those after it.
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("orders", "orders", true),
            ("orders", "order", false),
            ("*", "", true),
            ("ord*", "orders", true),
            ("*s", "orders", true),
            ("o*d*s", "orders", true),
            ("a*a", "a", false),
            ("a*ab", "aab", true),
            ("*ab*ab", "abab", true),
            ("*ab*ab", "ab", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn selections() {
        let selection = Selection::new(&["shop.*".into(), "users".into()], &["*.tmp_*".into()]);
        assert!(selection.contains(&TableId::new("shop", "orders")));
        assert!(selection.contains(&TableId::new("any", "users")));
        assert!(!selection.contains(&TableId::new("any", "orders")));
        assert!(!selection.contains(&TableId::new("shop", "tmp_1")));
        assert!(Selection::new(&[], &[]).contains(&TableId::new("a", "b")));
    }
}
