//! What a task's failure means, and what to do.

use crate::Problem;

/// Characters of a cause that people read.
const LONGEST: usize = 300;

/// The cause of a stack trace in one line: the innermost, without the name of its class.
pub(crate) fn cause(trace: &str) -> String {
    let mut causes = trace.lines().filter_map(|line| line.trim_start().strip_prefix("Caused by: "));
    let line = causes.next_back().or_else(|| trace.lines().next()).unwrap_or_default();
    let is_class = |name: &str| name.contains('.') && !name.contains(' ');
    let message = match line.split_once(": ") {
        Some((class, message)) if is_class(class) => message.trim(),
        _ => line.trim(),
    };
    // Debezium adds all that it knows of its place.
    match message.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

/// What a failed task needs.
pub(crate) fn of_failure(connector: &str, trace: &str) -> Problem {
    let anew = || {
        format!(
            "changes may be lost: `lakeward connector delete {connector}`, then `lakeward connector apply {connector}`, \
             copies its tables anew"
        )
    };
    let says = |words: &[&str]| {
        let trace = trace.to_lowercase();
        words.iter().all(|word| trace.contains(word))
    };
    let fix = if says(&["publication autocreation is disabled"])
        || says(&["publication", "does not exist"])
        || says(&["replication slot", "does not exist"])
        || says(&["no longer available on the server"])
        || says(&["slot", "ahead"])
        || says(&["can no longer"])
    {
        anew()
    } else if says(&["replication slot", "is active"]) {
        "somebody else reads its slot: stop that reader, then `lakeward connector restart`".to_owned()
    } else if says(&["authentication failed"]) || says(&["no pg_hba.conf entry"]) {
        format!(
            "check user and password of [source] postgres_url, then `lakeward connector apply {connector}`"
        )
    } else if says(&["connection", "refused"])
        || says(&["unknownhost"])
        || says(&["connection attempt failed"])
    {
        "Kafka Connect must reach Postgres at the host and port of [source] postgres_url; then `lakeward connector \
         restart`"
            .to_owned()
    } else if says(&["wal_level"]) || says(&["permission denied"]) || says(&["replication are not assigned"])
    {
        format!("`lakeward doctor` says what the server lacks; then `lakeward connector apply {connector}`")
    } else {
        format!("see the log of Kafka Connect; `lakeward connector restart {connector}` tries again")
    };
    Problem::grave(format!("its task has failed: {}", cause(trace)), fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_cause_is_told_without_its_class() {
        let trace = "org.apache.kafka.connect.errors.ConnectException: An exception occurred\n\tat io.debezium.A(A.java:1)\n\
            Caused by: io.debezium.DebeziumException: outer\n\tat x\nCaused by: org.postgresql.util.PSQLException: ERROR: no\n\t... 5 more";
        assert_eq!(cause(trace), "ERROR: no");
        assert_eq!(cause("just: words"), "just: words");
        assert_eq!(cause(""), "");
        assert_eq!(cause(&"é".repeat(1000)).chars().count(), LONGEST + 1);
    }

    #[test]
    fn what_to_do_follows_from_the_failure() {
        for (trace, fix) in [
            ("Publication autocreation is disabled, please create one", "delete ecommerce-connector"),
            ("ERROR: replication slot \"x\" does not exist", "delete ecommerce-connector"),
            ("ERROR: replication slot \"x\" is active for PID 7", "stop that reader"),
            ("FATAL: password authentication failed for user \"cdc\"", "user and password"),
            ("Connection to 10.0.0.1:5432 refused. Check that", "must reach Postgres"),
            ("ERROR: permission denied for table orders", "lakeward doctor"),
            ("java.lang.NullPointerException", "tries again"),
        ] {
            let problem = of_failure("ecommerce-connector", trace);
            assert!(problem.grave && problem.fix.contains(fix), "{trace}: {}", problem.fix);
        }
    }
}
