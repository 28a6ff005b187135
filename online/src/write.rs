//! Writing values: many in one command, and none over one that stands later.

use futures::{StreamExt, TryStreamExt, stream};
use lakeward_change::Position;
use redis::aio::ConnectionManager;

use crate::{
    Online, Result,
    keys::{self, Held},
};

const PUT: &str = include_str!("put.lua");
/// Entities of one command, for whose time nobody else is served: well below a millisecond.
const ENTITIES: usize = 64;
/// Texts of one command. Lua takes some thousand at once.
const TEXTS: usize = 2_000;
/// Commands sent at once.
const COMMANDS: usize = 8;
/// Such sendings on their way at once, of one writer.
const UNDER_WAY: usize = 4;

/// Where values stand: of two of one view and entity, the one at the later position is kept, and of two at one position
/// the one for the later time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    pub position: Position,
    /// What the value is true for, microseconds UTC.
    pub event_time: i64,
}

/// One entity's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub entity: i64,
    /// The value as JSON. Of [`UserItemInteractions`](lakeward_features::View::UserItemInteractions) product and JSON in turn; none at all if there is no value
    /// (any more).
    pub texts: Vec<String>,
}

impl Online {
    /// Writes some entities' values of a view (or their history), each unless the held one stands later. Returns how many were written.
    ///
    /// # Errors
    /// Redis fails. Some may have been written; to write all again does no harm.
    pub async fn put(&self, held: impl Into<Held>, stamp: Stamp, rows: &[Row]) -> Result<u64> {
        self.put_with(&self.writer, held.into(), stamp, rows, false).await
    }

    /// `earlier`: takes away what these entities hold from before the stamp, and writes nothing where nothing is held.
    pub(crate) async fn put_with(
        &self,
        writer: &ConnectionManager,
        held: Held,
        stamp: Stamp,
        rows: &[Row],
        earlier: bool,
    ) -> Result<u64> {
        let sendings: Vec<_> = pieces(rows)
            .chunks(COMMANDS)
            .map(|pieces| {
                let mut commands = redis::pipe();
                for rows in pieces {
                    commands.add_command(self.command(held, stamp, rows, earlier));
                }
                send(commands, writer.clone())
            })
            .collect();
        let mut sent = stream::iter(sendings).buffer_unordered(UNDER_WAY);
        let mut written = 0;
        while let Some(of) = sent.try_next().await? {
            written += of;
        }
        Ok(written)
    }

    fn command(&self, held: Held, stamp: Stamp, rows: &[Row], earlier: bool) -> redis::Cmd {
        let apart = held.is_apart();
        let mut command = redis::cmd("EVAL");
        command.arg(PUT).arg(rows.len() * if apart { 2 } else { 1 });
        for row in rows {
            command.arg(self.keys.entity(held, row.entity));
            if apart {
                command.arg(keys::interactions(row.entity));
            }
        }
        command
            .arg(held.name())
            .arg(keys::place(stamp.position))
            .arg(stamp.event_time)
            .arg(self.ttl.of_entity(held))
            .arg(i32::from(apart))
            .arg(i32::from(earlier));
        for row in rows {
            command.arg(row.texts.len()).arg(row.texts.as_slice());
        }
        command
    }
}

async fn send(commands: redis::Pipeline, mut writer: ConnectionManager) -> Result<u64> {
    let written: Vec<u64> = commands.query_async(&mut writer).await?;
    Ok(written.iter().sum())
}

/// Rows for one command each.
fn pieces(rows: &[Row]) -> Vec<&[Row]> {
    let mut pieces = Vec::new();
    let (mut start, mut texts) = (0, 0);
    for (at, row) in rows.iter().enumerate() {
        if at > start && (at - start == ENTITIES || texts + row.texts.len() > TEXTS) {
            pieces.push(&rows[start..at]);
            (start, texts) = (at, 0);
        }
        texts += row.texts.len();
    }
    if start < rows.len() {
        pieces.push(&rows[start..]);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_hold_all_rows_in_order_and_are_bounded() {
        let rows: Vec<_> = (0..300)
            .map(|entity| Row { entity, texts: vec![String::new(); (entity % 200) as usize] })
            .collect();
        let pieces = pieces(&rows);
        assert_eq!(pieces.concat(), rows);
        for piece in pieces {
            assert!(piece.len() <= ENTITIES);
            assert!(piece.len() == 1 || piece.iter().map(|row| row.texts.len()).sum::<usize>() <= TEXTS);
        }
    }
}
