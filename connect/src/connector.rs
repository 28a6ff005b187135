//! Making, watching and taking away connectors.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    ConnectError, Problem, Report, Slot, Task, Template,
    api::{Api, Status},
    diagnosis,
    source::{self, Source},
};

/// Connect's answers may be some moments old: a state counts once it has stood so long.
const STEADY: Duration = Duration::from_secs(2);
/// A task that has not begun by then does not begin by itself.
const BEGIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);

/// The connectors of one Kafka Connect for one shop's database.
pub struct Connectors {
    api: Api,
    source: Source,
}

impl Connectors {
    /// `connect`: where Kafka Connect's REST API is, such as `http://127.0.0.1:8083`; `postgres`: the shop's database, as
    /// Kafka Connect reaches it.
    pub fn new(connect: &str, postgres: &str) -> Result<Self, ConnectError> {
        Ok(Self { api: Api::new(connect)?, source: Source::new(postgres) })
    }

    /// Makes the connector as its template says, or changes it to that, and waits until its task runs or has failed.
    ///
    /// # Errors
    /// Connect or Postgres cannot be reached or refuse; a slot that is gone, since going on would pass over changes.
    pub async fn apply(&self, template: &Template) -> Result<Report, ConnectError> {
        let client = self.source.connect().await?;
        let name = template.slot()?;
        self.check_slot(template, &source::slot(&client, name).await?).await?;
        let tables = source::select(&client, template).await?;
        if tables.names.is_empty() {
            return Err(ConnectError::NoTables { connector: template.name.clone() });
        }
        let mut values = self.source.values()?;
        values.insert("tables", source::regex_list(&tables.names));
        values.insert("unreadable", source::regex_list(&tables.unreadable));
        let config = template.fill(&values)?;

        let failed = self.api.status(&template.name).await?.is_some_and(|status| !status.runs());
        // Before the slot: one that is older than its publication could not be read.
        source::publish(&client, name, &tables).await?;
        self.api.put_config(&template.name, &config).await?;
        // Connect leaves a failed task as it is if the settings have not changed.
        if failed {
            self.api.restart(&template.name).await?;
        }
        let mut report = self.settled(template).await?;
        report.problems.extend(tables.left_out);
        Ok(report)
    }

    /// What is so now.
    pub async fn status(&self, template: &Template) -> Result<Report, ConnectError> {
        let status = self.api.status(&template.name).await?;
        self.report(template, status).await
    }

    /// Starts connector and task again, and waits until the task runs or has failed.
    ///
    /// # Errors
    /// There is none; as [`apply`](Self::apply).
    pub async fn restart(&self, template: &Template) -> Result<Report, ConnectError> {
        let client = self.source.connect().await?;
        self.check_slot(template, &source::slot(&client, template.slot()?).await?).await?;
        if !self.api.restart(&template.name).await? {
            return Err(ConnectError::Missing { connector: template.name.clone() });
        }
        self.settled(template).await
    }

    /// Takes the connector away with all that it remembers, its slot and its publication; its topics stay.
    pub async fn delete(&self, template: &Template) -> Result<(), ConnectError> {
        if self.api.stop(&template.name).await? {
            let began = Instant::now();
            let stopped = |status: &Status| status.connector.state == "STOPPED" && status.tasks.is_empty();
            while !self.api.status(&template.name).await?.is_none_or(|status| stopped(&status)) {
                if began.elapsed() > BEGIN {
                    return Err(ConnectError::DoesNotStop { connector: template.name.clone() });
                }
                sleep(PAUSE).await;
            }
            self.api.delete_offsets(&template.name).await?;
            self.api.delete(&template.name).await?;
        }
        source::drop(&self.source.connect().await?, template.slot()?).await
    }

    /// Debezium would make a missing slot anew and go on, without what came in between.
    async fn check_slot(&self, template: &Template, slot: &Slot) -> Result<(), ConnectError> {
        match slot.gone() {
            Some(problem) if slot.exists || self.api.has_offsets(&template.name).await? => {
                Err(ConnectError::SlotGone {
                    connector: template.name.clone(),
                    slot: slot.name.clone(),
                    problem,
                })
            }
            _ => Ok(()),
        }
    }

    /// Waits until it runs, has failed, or does neither for too long.
    async fn settled(&self, template: &Template) -> Result<Report, ConnectError> {
        let began = Instant::now();
        let mut steady: Option<(bool, Instant)> = None;
        loop {
            let status = self.api.status(&template.name).await?;
            let now = Instant::now();
            let outcome = status.as_ref().and_then(Status::outcome);
            steady =
                outcome.map(|outcome| steady.filter(|(last, _)| *last == outcome).unwrap_or((outcome, now)));
            let settled = steady.is_some_and(|(_, since)| now - since >= STEADY);
            if settled || now - began > BEGIN {
                return self.report(template, status).await;
            }
            sleep(PAUSE).await;
        }
    }

    async fn report(&self, template: &Template, status: Option<Status>) -> Result<Report, ConnectError> {
        let connector = &template.name;
        let mut report = Report {
            connector: connector.clone(),
            state: status.as_ref().map(|status| status.connector.state.clone()),
            tasks: Vec::new(),
            slot: None,
            tables: Vec::new(),
            problems: status.as_ref().map_or_else(
                || {
                    let fix = format!("`lakeward connector apply {connector}` makes it");
                    vec![Problem::grave("Kafka Connect has no such connector", fix)]
                },
                |status| status.problems(connector),
            ),
        };
        report.tasks = status.map(|status| status.tasks()).unwrap_or_default();
        match self.in_database(template).await {
            Ok((slot, tables)) => {
                if let Some(problem) = slot.gone()
                    && report.state.is_some()
                {
                    let (slot, connector) = (slot.name.clone(), connector.clone());
                    let gone = ConnectError::SlotGone { connector, slot, problem }.to_string();
                    let (what, fix) = gone.split_once(". ").unwrap_or((&gone, ""));
                    report.problems.push(Problem::grave(what, fix));
                }
                (report.slot, report.tables) = (Some(slot), tables);
            }
            Err(error) => {
                let fix = "check [source] postgres_url and the server; `lakeward doctor` says more";
                report.problems.push(Problem::grave(error.to_string(), fix));
            }
        }
        Ok(report)
    }

    async fn in_database(&self, template: &Template) -> Result<(Slot, Vec<String>), ConnectError> {
        let (client, name) = (self.source.connect().await?, template.slot()?);
        Ok((source::slot(&client, name).await?, source::published(&client, name).await?))
    }
}

impl Status {
    /// A connector says RUNNING whatever became of its task.
    fn runs(&self) -> bool {
        self.connector.state == "RUNNING"
            && !self.tasks.is_empty()
            && self.tasks.iter().all(|task| task.state == "RUNNING")
    }

    /// Whether it runs or has failed; `None` if it does neither yet.
    fn outcome(&self) -> Option<bool> {
        let failed = self.connector.state == "FAILED" || self.tasks.iter().any(|task| task.state == "FAILED");
        (self.runs() || failed).then_some(!failed)
    }

    fn tasks(&self) -> Vec<Task> {
        let tasks = self.tasks.iter().map(|task| Task {
            id: task.id,
            state: task.state.clone(),
            error: task.trace.as_deref().map(diagnosis::cause),
        });
        tasks.collect()
    }

    fn problems(&self, connector: &str) -> Vec<Problem> {
        if self.runs() {
            return Vec::new();
        }
        let states = self.tasks.iter().map(|task| (&task.state, &task.trace));
        let mut failures: Vec<Problem> = states
            .chain([(&self.connector.state, &self.connector.trace)])
            .filter(|(state, _)| *state == "FAILED")
            .map(|(_, trace)| diagnosis::of_failure(connector, trace.as_deref().unwrap_or_default()))
            .collect();
        if failures.is_empty() {
            let state = self.connector.state.to_lowercase();
            let tasks: Vec<String> = self.tasks.iter().map(|task| task.state.to_lowercase()).collect();
            let tasks = if tasks.is_empty() { "none".to_owned() } else { tasks.join(", ") };
            let fix = format!("`lakeward connector apply {connector}`, or see the log of Kafka Connect");
            failures.push(Problem::grave(format!("it is {state}, its task {tasks}"), fix));
        }
        failures
    }
}
