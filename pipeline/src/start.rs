//! Where a pipeline begins: what the lake holds against what the slot still remembers.

use lakeward_cdc::{SchemaPolicy, SlotState};
use lakeward_change::{Evolution, Lsn, Position, TableId};
use lakeward_lakehouse::Watermark;

/// What the source says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Origin<'a> {
    pub(crate) system_id: &'a str,
    pub(crate) timeline: u32,
    /// Where the server's log ends now.
    pub(crate) flushed: Lsn,
    /// Why its topics cannot be read on.
    pub(crate) gone: Option<&'a str>,
}

/// How to begin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With the slot that is there.
    Resume,
    /// With a new slot, and a copy of all tables.
    Anew { lost: Option<String> },
}

/// Decides by the newest watermark and the slot.
pub(crate) fn decide(watermark: Option<&Watermark>, slot: &SlotState, origin: &Origin<'_>) -> Start {
    let lost = watermark.and_then(|watermark| lost(watermark, slot, origin));
    match slot {
        SlotState::Present { lost: false, .. } if lost.is_none() => Start::Resume,
        _ => Start::Anew { lost },
    }
}

/// What makes the slot's changes not those that follow the watermark.
fn lost(watermark: &Watermark, slot: &SlotState, origin: &Origin<'_>) -> Option<String> {
    if watermark.system_id != origin.system_id {
        Some(format!(
            "the server is another one: system {} instead of {}",
            origin.system_id, watermark.system_id
        ))
    } else if watermark.timeline != origin.timeline {
        Some(format!(
            "the server was restored or promoted: timeline {} instead of {}",
            origin.timeline, watermark.timeline
        ))
    } else if origin.flushed < watermark.lsn {
        Some(format!(
            "the server's log ends at {}, before the lake's watermark {}: it was restored from a backup",
            origin.flushed, watermark.lsn
        ))
    } else if let Some(gone) = origin.gone {
        Some(gone.to_owned())
    } else {
        match slot {
            SlotState::Missing => {
                Some("the replication slot is gone, and with it the changes since".to_owned())
            }
            SlotState::Present { lost: true, .. } => {
                Some("the server has invalidated the replication slot: its log was removed".to_owned())
            }
            SlotState::Present { .. } => None,
        }
    }
}

/// What to do with a table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// All that committed before is durable.
    Follow(Lsn),
    /// The same, once the lake has the columns and partitions that came.
    Extend(Lsn),
    /// The same, without what came, if the rest is as it was; else to be stopped.
    Narrow(Lsn, String),
    Copy(String),
    Stop(String),
}

/// Decides for one table: `evolution` of its definition since it was captured; up to where it is `complete` in the
/// lake, if there is a whole copy; up to where the slot may have `forgotten`.
pub(crate) fn step(
    policy: SchemaPolicy,
    evolution: &Evolution,
    complete: Option<Lsn>,
    forgotten: Lsn,
) -> Step {
    let complete = match complete {
        None => return Step::Copy("the lake has no whole copy of it yet".into()),
        Some(complete) if complete < forgotten => Err(format!(
            "the slot stands at {forgotten}, beyond {complete}, up to where the lake has the table"
        )),
        Some(complete) => Ok(complete),
    };
    match (evolution, policy, complete) {
        (Evolution::Replaced(reason), SchemaPolicy::Follow, _) => Step::Copy(reason.clone()),
        (Evolution::Replaced(reason), SchemaPolicy::Ignore, Ok(complete)) => {
            Step::Narrow(complete, reason.clone())
        }
        (Evolution::Replaced(reason), SchemaPolicy::Ignore | SchemaPolicy::Stop, _) => {
            Step::Stop(reason.clone())
        }
        (Evolution::Extended, SchemaPolicy::Stop, _) => Step::Stop("columns were added".into()),
        (_, _, Err(gap)) => Step::Copy(gap),
        (Evolution::Extended, SchemaPolicy::Ignore, Ok(complete)) => {
            Step::Narrow(complete, "columns were added".into())
        }
        (Evolution::Extended, SchemaPolicy::Follow, Ok(complete)) => Step::Extend(complete),
        // A partition is no change of what a row is.
        (Evolution::Grown, _, Ok(complete)) => Step::Extend(complete),
        (Evolution::Same, _, Ok(complete)) => Step::Follow(complete),
    }
}

/// Up to where a table is complete: all that committed before is durable. A table's own position tells the last change
/// it had, a watermark that there was none since.
pub(crate) fn complete_to(
    table: &TableId,
    durable: Option<Position>,
    watermark: Option<&Watermark>,
) -> Option<Lsn> {
    let durable = durable?;
    let own = Lsn::from_i64(durable.commit);
    let entry = watermark.and_then(|watermark| {
        let entry = watermark.tables.get(table)?;
        (entry.epoch == durable.epoch).then_some(watermark.lsn)
    });
    let stopped = watermark.and_then(|watermark| {
        watermark.stopped.iter().find(|stopped| stopped.id == *table).map(|stopped| stopped.complete_to)
    });
    Some(own).max(entry).max(stopped)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lakeward_change::{StopCause, StoppedTable};
    use lakeward_lakehouse::WatermarkTable;

    use super::*;

    fn watermark() -> Watermark {
        Watermark {
            source: "shop".into(),
            system_id: "7".into(),
            timeline: 1,
            epoch: 3,
            lsn: Lsn(100),
            stream_time: None,
            written_at: 0,
            reason: "cut".into(),
            tables: BTreeMap::new(),
            stopped: Vec::new(),
            offsets: BTreeMap::new(),
        }
    }

    fn slot(confirmed: u64) -> SlotState {
        SlotState::Present { confirmed: Lsn(confirmed), active_pid: None, lost: false }
    }

    fn origin(flushed: u64) -> Origin<'static> {
        Origin { system_id: "7", timeline: 1, flushed: Lsn(flushed), gone: None }
    }

    fn lost(start: Start) -> String {
        match start {
            Start::Anew { lost: Some(reason) } => reason,
            other => panic!("expected a new slot with a reason, got {other:?}"),
        }
    }

    #[test]
    fn a_slot_that_is_there_is_read_on() {
        assert_eq!(decide(Some(&watermark()), &slot(90), &origin(200)), Start::Resume);
        assert_eq!(decide(None, &slot(90), &origin(200)), Start::Resume, "a first copy that did not finish");
        assert_eq!(decide(None, &SlotState::Missing, &origin(200)), Start::Anew { lost: None });
    }

    #[test]
    fn whatever_was_lost_is_said_and_copied_anew() {
        let w = watermark();
        assert!(lost(decide(Some(&w), &SlotState::Missing, &origin(200))).contains("slot is gone"));
        assert!(lost(decide(Some(&w), &slot(90), &origin(99))).contains("backup"));
        let invalid = SlotState::Present { confirmed: Lsn(90), active_pid: None, lost: true };
        assert!(lost(decide(Some(&w), &invalid, &origin(200))).contains("invalidated"));
        let removed = Origin { gone: Some("topic t is gone"), ..origin(200) };
        assert_eq!(lost(decide(Some(&w), &invalid, &removed)), "topic t is gone");
        let other = Origin { system_id: "8", ..origin(200) };
        assert!(lost(decide(Some(&w), &slot(90), &other)).contains("another"));
        let promoted = Origin { timeline: 2, ..origin(200) };
        assert!(lost(decide(Some(&w), &slot(90), &promoted)).contains("timeline 2"));
    }

    #[test]
    fn a_table_is_complete_up_to_its_copy_its_last_change_or_the_watermark() {
        let (a, b) = (TableId::new("s", "a"), TableId::new("s", "b"));
        let mut w = watermark();
        let entry = WatermarkTable {
            epoch: 3,
            bronze_path: String::new(),
            bronze_version: 0,
            silver_path: String::new(),
            silver_version: 0,
            key: Vec::new(),
        };
        w.tables.insert(a.clone(), entry);
        let (id, reason) = (b.clone(), String::new());
        w.stopped.push(StoppedTable { id, reason, cause: StopCause::Definition, complete_to: Lsn(70) });
        let durable = |epoch, commit| Some(Position { epoch, commit, order: 0 });
        assert_eq!(complete_to(&a, durable(3, 40), Some(&w)), Some(Lsn(100)));
        assert_eq!(complete_to(&a, durable(3, 140), Some(&w)), Some(Lsn(140)));
        assert_eq!(complete_to(&a, durable(4, 90), Some(&w)), Some(Lsn(90)), "copied anew since");
        assert_eq!(complete_to(&b, durable(3, 40), Some(&w)), Some(Lsn(70)));
        assert_eq!(complete_to(&a, durable(3, 40), None), Some(Lsn(40)));
        assert_eq!(complete_to(&a, None, Some(&w)), None);
    }

    #[test]
    fn a_table_is_followed_extended_copied_or_stopped() {
        let replaced = Evolution::Replaced("why".into());
        let all = [SchemaPolicy::Follow, SchemaPolicy::Ignore, SchemaPolicy::Stop];
        for policy in all {
            assert_eq!(step(policy, &Evolution::Same, Some(Lsn(5)), Lsn(5)), Step::Follow(Lsn(5)));
            assert!(matches!(step(policy, &Evolution::Same, Some(Lsn(4)), Lsn(5)), Step::Copy(_)));
            assert!(matches!(step(policy, &Evolution::Same, None, Lsn(5)), Step::Copy(_)));
        }
        let steps = |evolution| all.map(|policy| step(policy, evolution, Some(Lsn(5)), Lsn(5)));
        let [follow, ignore, stop] = steps(&replaced);
        assert_eq!(follow, Step::Copy("why".into()));
        assert!(matches!((ignore, stop), (Step::Narrow(Lsn(5), _), Step::Stop(_))));
        let [follow, ignore, stop] = steps(&Evolution::Extended);
        assert_eq!(follow, Step::Extend(Lsn(5)));
        assert!(matches!((ignore, stop), (Step::Narrow(Lsn(5), _), Step::Stop(_))));
        assert!(steps(&Evolution::Grown).iter().all(|step| *step == Step::Extend(Lsn(5))));
    }
}
