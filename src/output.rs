//! What people and machines get to see: logs, tables, progress.

use std::{
    collections::HashMap,
    io::IsTerminal,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use lakeward_pipeline::{Event, Observer};
use tracing_subscriber::EnvFilter;

/// Without a terminal a long step says where it stands this often.
const PLAIN_LINE_EVERY: Duration = Duration::from_secs(5);

pub fn start_logging(verbose: u8) {
    let level = match verbose {
        // delta-rs warns of a metric that its own merge does not give.
        0 => "warn,deltalake_core=error",
        1 => "info,deltalake_core=error",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("LAKEWARD_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

/// A table of text for people.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

/// A size for people.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Progress on standard error: bars on a terminal, plain lines otherwise.
#[derive(Clone)]
pub struct Progress {
    bars: Option<MultiProgress>,
}

/// One long step.
pub struct Step {
    bar: Option<ProgressBar>,
    name: String,
    unit: &'static str,
    said: Mutex<Instant>,
}

impl Progress {
    pub fn new() -> Self {
        Self { bars: std::io::stderr().is_terminal().then(MultiProgress::new) }
    }

    /// Begins a step that counts `unit`.
    pub fn step(&self, name: impl Into<String>, unit: &'static str) -> Step {
        let name = name.into();
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::no_length());
            bar.set_style(style(false));
            bar.set_message(format!("{name} ({unit})"));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Step { bar, name, unit, said: Mutex::new(Instant::now()) }
    }

    /// A line that does not tear the bars.
    pub fn say(&self, line: impl AsRef<str>) {
        match &self.bars {
            // A terminal that is gone has nobody to read it.
            Some(bars) => drop(bars.println(line)),
            None => eprintln!("{}", line.as_ref()),
        }
    }
}

fn style(known_length: bool) -> ProgressStyle {
    let template = if known_length {
        "  {msg:<34} {bar:24} {human_pos:>11}/{human_len} {per_sec:>14} {eta:>5}"
    } else {
        "  {msg:<34} {spinner} {human_pos:>11} {per_sec:>14}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Step {
    /// `total` of 0: not known.
    pub fn set(&self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            if total > 0 && bar.length() != Some(total) {
                bar.set_length(total);
                bar.set_style(style(true));
            }
            bar.set_position(done);
            return;
        }
        let Ok(mut said) = self.said.lock() else { return };
        if said.elapsed() >= PLAIN_LINE_EVERY {
            *said = Instant::now();
            let of = if total > 0 { format!(" of {total}") } else { String::new() };
            eprintln!("  {}: {done}{of} {}", self.name, self.unit);
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Shows the pipeline's events: the copy as progress, the rest as lines.
pub fn pipeline_observer(progress: &Progress) -> Observer {
    let progress = progress.clone();
    let copies: Mutex<HashMap<String, Step>> = Mutex::default();
    Arc::new(move |event| {
        let Ok(mut copies) = copies.lock() else { return };
        match event {
            Event::CopyProgress { table, rows } => {
                let name = table.to_string();
                copies.entry(name.clone()).or_insert_with(|| progress.step(name, "rows copied")).set(rows, 0);
            }
            Event::CopyFinished { table, rows } => {
                copies.remove(&table.to_string());
                progress.say(format!("  {table}: {rows} rows copied"));
            }
            Event::CopyStarted { tables, snapshot } => {
                progress.say(format!("Copying {tables} tables as of {snapshot}"));
            }
            Event::Streaming { from } => progress.say(format!("Following changes from {from}")),
            Event::Skipped { table, reason } => progress.say(format!("Left out {table}: {reason}")),
            Event::BronzeOnly { table, reason } => progress
                .say(format!("{table} lands in bronze alone, without its updates and deletes: {reason}")),
            Event::ColumnSkipped { table, column } => progress.say(format!(
                "Left out column {column} of {table}: it is generated, configured or published so, or of a type that the \
                 connector cannot tell"
            )),
            Event::Copying { table, reason } => {
                progress.say(format!("Copying {table} anew, the other tables go on: {reason}"));
            }
            Event::Stopped(table) => progress.say(format!(
                "Stopped {}: {}. Its later changes do not arrive, the other tables go on. To have it whole again: \
                 `lakeward table resync {}`",
                table.id, table.reason, table.id
            )),
            Event::SetAside { table, rows } => progress.say(format!(
                "{rows} rows of {table} cannot be taken in; they are kept, and the rest goes on: `lakeward \
                 dead-letters list`"
            )),
            Event::Nulled { values } => progress.say(format!(
                "{values} values are null in their columns, which cannot hold them (NaN, infinity, out of range), and \
                 text in _raw"
            )),
            Event::Lost { reason } => {
                progress.say(format!("Something was lost: {reason}. All tables are copied anew."));
            }
            Event::Retrying { reason, seconds } => {
                tracing::warn!("{reason}; trying again in {seconds:.1} s");
            }
            Event::Committed(watermark) => {
                tracing::debug!(lsn = %watermark.lsn, reason = watermark.reason, "durable");
            }
        }
    })
}
