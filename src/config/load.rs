//! The configuration read from its file and the environment, with everything that is wrong.

use std::path::Path;

use figment::{
    Figment,
    providers::{Env, Format, Serialized, Toml},
    value::{Dict, Value},
};

use super::Config;

/// Everything that is wrong with the configuration, at once.
#[derive(Debug, thiserror::Error)]
#[error("the configuration is wrong in {} place(s):\n{}", problems.len(), problems.iter().map(|p| format!("  - {p}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError {
    pub problems: Vec<String>,
}

impl Config {
    /// Reads the defaults, then `file` (or `lakeward.toml` if there is one), then the environment. An empty text for what has
    /// no default leaves it out, so that a variable can take back what others give.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut given = Figment::new();
        match file {
            Some(path) => given = given.merge(Toml::file_exact(path)),
            None => given = given.merge(Toml::file("lakeward.toml")),
        }
        Self::from_given(given.merge(Env::prefixed("LAKEWARD__").split("__").ignore(&["config"])))
    }

    fn from_given(given: Figment) -> Result<Self, ConfigError> {
        let dict = match given.extract::<Dict>() {
            Ok(dict) => dict,
            Err(error) => return Err(ConfigError { problems: vec![unreadable(&error)] }),
        };
        let mut problems = Vec::new();
        let defaults = Figment::from(Serialized::defaults(Self::default()));
        let mut good = defaults.clone();
        let has_default = |path: &str| !matches!(defaults.find_value(path), Ok(Value::Empty(..)));
        for (path, value) in leaves("", dict) {
            if value.as_str() == Some("") && !has_default(&path) {
                continue;
            }
            match problem_of(&defaults, &path, &value) {
                Some(problem) => problems.push(problem),
                None => good = good.merge(Serialized::default(&path, value)),
            }
        }
        let config: Self =
            good.extract().map_err(|error| ConfigError { problems: vec![error.to_string()] })?;
        problems.extend(config.problems());
        if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
    }
}

/// What is wrong with a file as a whole, without the line that a parser would quote: it may hold a password.
fn unreadable(error: &figment::Error) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with(|c: char| c == '|' || c.is_ascii_digit()))
        .collect();
    lines.join(" ")
}

/// Every value with its path; a map of names is one value.
fn leaves(prefix: &str, dict: Dict) -> Vec<(String, Value)> {
    dict.into_iter()
        .flat_map(|(key, value)| {
            let path = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
            match value {
                Value::Dict(_, inner) if path != "lake.names" => leaves(&path, inner),
                value => vec![(path, value)],
            }
        })
        .collect()
}

/// What is wrong with one value, judged alone over the defaults.
fn problem_of(defaults: &Figment, path: &str, value: &Value) -> Option<String> {
    let secret = path.ends_with("url");
    let error = defaults.clone().merge(Serialized::default(path, value)).extract::<Config>().err()?;
    let what = match error.kind {
        figment::error::Kind::UnknownField(field, known) => {
            format!("unknown key `{field}`; known here: {}", known.join(", "))
        }
        _ if secret => "not a URL".to_owned(),
        _ if path == "source.hash_salt"
            || path == "source.kafka.settings"
            || path == "source.kafka.sasl_password"
            || path == "events.settings"
            || path == "lake.s3.secret_access_key" =>
        {
            "not a text: put it in quotes".to_owned()
        }
        kind => kind.to_string(),
    };
    Some(format!("{path}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_toml(text: &str) -> Result<Config, ConfigError> {
        Config::from_given(Figment::new().merge(Toml::string(text)))
    }

    #[test]
    fn the_example_file_shows_the_defaults() {
        let example = from_toml(include_str!("../../lakeward.example.toml")).expect("the example is right");
        let text = |config: &Config| toml::to_string(config).expect("a configuration is TOML");
        assert_eq!(text(&example), text(&Config::default()));
    }

    #[test]
    fn an_empty_text_leaves_out_what_has_no_default() {
        let given =
            "[events]\nbrokers = \"\"\n[online]\nurl = \"\"\n[source]\nexclude = [\"\"]\nkafka.prefix = \"\"";
        let config = from_toml(given).expect("it is right");
        assert!(config.events.brokers.is_none() && config.online.url.is_none());
        assert!(config.source.kafka.prefix.is_none() && config.source.exclude == [""]);
        from_toml("[serve]\naddress = \"\"").expect_err("an address has a default");
    }

    #[test]
    fn all_errors_are_told_at_once() {
        let error = from_toml(
            "[lake]\nurl = 7\nnope = 1\n[ingest]\nflush_rows = \"many\"\n[nonsense]\na = 1\n[serve]\naddress = \"x\"",
        )
        .expect_err("five things are wrong");
        assert_eq!(error.problems.len(), 5, "{error}");
        let text = error.to_string();
        for key in ["lake.url", "lake.nope", "ingest.flush_rows", "nonsense", "serve.address"] {
            assert!(text.contains(key), "{key} is not in: {text}");
        }
    }

    #[test]
    fn a_line_that_cannot_be_read_is_not_quoted() {
        let error =
            from_toml("[source]\npostgres_url = postgres://me:hunter2@db/shop").expect_err("no quotes");
        let text = error.to_string();
        assert!(text.contains("line 2") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn values_out_of_range_are_told_at_once() {
        let error = from_toml(
            "[ingest]\nflush_rows = 0\nmemory_mib = 1\nflush_mib = \"x\"\n[shop]\nusers = \"users\"\n\
             [serve]\npoll_seconds = 1e-10\n[churn]\nhorizon_days = 200000000",
        )
        .expect_err("six things are wrong");
        assert_eq!(error.problems.len(), 6, "{error}");
    }

    #[test]
    fn passwords_are_masked() {
        let config =
            from_toml("[source]\npostgres_url = \"postgres://me:hunter2@db/shop\"").expect("it is right");
        let shown = toml::to_string(&config).expect("a configuration is TOML");
        assert!(!shown.contains("hunter2") && shown.contains("db/shop"), "{shown}");
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn the_online_stores_password_is_masked_and_its_url_is_one_of_redis() {
        let given =
            "[online]\nurl = \"rediss://features:hunter2@redis:6379/1\"\nttl_days = { user_rfm = 1.5 }";
        let config = from_toml(given).expect("it is right");
        assert_eq!((config.online.ttl_days.user_rfm, config.online.ttl_days.user_activity), (1.5, 7.0));
        let shown = toml::to_string(&config).expect("a configuration is TOML");
        assert!(!shown.contains("hunter2") && shown.contains("redis:6379/1"), "{shown}");
        let wrong = "[online]\nurl = \"http://hunter2\"\nttl_days = { user_rfm = 0 }";
        let error = from_toml(wrong).expect_err("two things are wrong");
        assert!(error.problems.len() == 2 && !error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn the_salt_is_needed_and_never_shown() {
        let rules =
            "[source]\nrules = [{ pattern = \"public.users\", hash = [\"email\"], numeric_scale = 39 }]\n";
        let error = from_toml(rules).expect_err("no salt, and too large a scale");
        assert_eq!(error.problems.len(), 2, "{error}");
        let text = rules.replace("39", "2");
        let config = from_toml(&format!("{text}hash_salt = \"pepper\"")).expect("it is right");
        let shown = toml::to_string(&config).expect("a configuration is TOML");
        assert!(shown.contains("***") && !shown.contains("pepper"), "{shown}");
        assert!(!format!("{config:?}").contains("pepper"));
        let error = from_toml(&format!("{text}hash_salt = 90210")).expect_err("a number").to_string();
        assert!(error.contains("quotes") && !error.contains("90210"), "{error}");
    }
}
