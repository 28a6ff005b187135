//! Where a pipeline begins: what the lake holds against what the slot still remembers.

use lakeward_cdc::SlotState;
use lakeward_change::Lsn;
use lakeward_lakehouse::Watermark;

/// What the source says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Origin<'a> {
    pub(crate) system_id: &'a str,
    pub(crate) timeline: u32,
    /// Where the server's log ends now.
    pub(crate) flushed: Lsn,
}

/// How to begin.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Go on from the newest watermark.
    Resume,
    /// Copy all tables as a new generation.
    Copy { epoch: i64, lost: Option<String> },
}

/// Decides by the newest watermark, the slot, and the next epoch that no table of the source has seen.
pub(crate) fn decide(
    watermark: Option<&Watermark>,
    slot: &SlotState,
    origin: &Origin<'_>,
    next_epoch: i64,
) -> Start {
    let next = next_epoch.max(watermark.map_or(1, |watermark| watermark.epoch + 1));
    let Some(watermark) = watermark else {
        // A slot without a watermark is a first copy that did not finish.
        return Start::Copy { epoch: next, lost: None };
    };
    let lost = if watermark.system_id != origin.system_id {
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
    } else {
        match slot {
            SlotState::Missing => {
                Some("the replication slot is gone, and with it the changes since".to_owned())
            }
            SlotState::Present { lost: true, .. } => {
                Some("the server has invalidated the replication slot: its log was removed".to_owned())
            }
            SlotState::Present { confirmed, .. } if *confirmed > watermark.lsn => Some(format!(
                "the slot stands at {confirmed}, beyond the lake's watermark {}: someone else has read from it",
                watermark.lsn
            )),
            SlotState::Present { .. } => None,
        }
    };
    match lost {
        None => Start::Resume,
        lost => Start::Copy { epoch: next, lost },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn watermark() -> Watermark {
        Watermark {
            source: "shop".into(),
            system_id: "7".into(),
            timeline: 1,
            epoch: 3,
            lsn: Lsn(100),
            stream_time: None,
            reason: "cut".into(),
            tables: BTreeMap::new(),
            stopped: Vec::new(),
        }
    }

    fn slot(confirmed: u64) -> SlotState {
        SlotState::Present { confirmed: Lsn(confirmed), active_pid: None, lost: false }
    }

    fn origin(flushed: u64) -> Origin<'static> {
        Origin { system_id: "7", timeline: 1, flushed: Lsn(flushed) }
    }

    fn lost(start: Start) -> String {
        match start {
            Start::Copy { epoch: 4, lost: Some(reason), .. } => reason,
            other => panic!("expected a new epoch with a reason, got {other:?}"),
        }
    }

    #[test]
    fn resumes_from_the_watermark_when_the_slot_is_not_beyond_it() {
        let start = decide(Some(&watermark()), &slot(90), &origin(200), 4);
        assert_eq!(start, Start::Resume);
    }

    #[test]
    fn nothing_captured_yet_is_a_first_copy() {
        let start = decide(None, &SlotState::Missing, &origin(200), 1);
        assert_eq!(start, Start::Copy { epoch: 1, lost: None });
    }

    #[test]
    fn an_unfinished_first_copy_starts_over_under_a_new_epoch() {
        let start = decide(None, &slot(90), &origin(200), 2);
        assert_eq!(start, Start::Copy { epoch: 2, lost: None });
    }

    #[test]
    fn whatever_was_lost_is_said_and_copied_anew() {
        let w = watermark();
        assert!(lost(decide(Some(&w), &SlotState::Missing, &origin(200), 4)).contains("slot is gone"));
        assert!(lost(decide(Some(&w), &slot(101), &origin(200), 4)).contains("beyond"));
        assert!(lost(decide(Some(&w), &slot(90), &origin(99), 4)).contains("backup"));
        let invalid = SlotState::Present { confirmed: Lsn(90), active_pid: None, lost: true };
        assert!(lost(decide(Some(&w), &invalid, &origin(200), 4)).contains("invalidated"));
        let other = Origin { system_id: "8", ..origin(200) };
        assert!(lost(decide(Some(&w), &slot(90), &other, 4)).contains("another"));
        let promoted = Origin { timeline: 2, ..origin(200) };
        assert!(lost(decide(Some(&w), &slot(90), &promoted, 4)).contains("timeline 2"));
    }
}
