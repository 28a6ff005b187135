//! Cuts asked for by other processes, through the control database.
//!
//! Who wants to compare the lake with the source at one exact point announces it; the pipeline stops reading between
//! two transactions; the asker, who now knows that nothing passes it, takes a snapshot at S and names S; the pipeline
//! reads on to exactly S, cuts there and answers with the watermark.

use std::{sync::Arc, time::Duration};

use lakeward_change::Lsn;
use lakeward_faults::failpoint;
use lakeward_lakehouse::Watermark;
use lakeward_postgres::{Control, CutState, LEASE, TableRequest};
use tokio::time::{Instant, timeout};

use crate::{PipelineError, error::chain, progress::Progress};

/// Reading never stands still longer than this for someone's snapshot.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The control database may take so long for an answer, and is left alone so long if it has none.
const PATIENCE: Duration = Duration::from_secs(2);
const REST: Duration = Duration::from_secs(10);
const REPORT: Duration = Duration::from_secs(1);

pub(crate) struct Requests {
    control: Arc<Control>,
    source: String,
    state: State,
    /// The control database failed: it is left alone so long.
    rest_until: Option<Instant>,
    report_at: Instant,
    term: Option<i64>,
    renew_at: Instant,
    requests_at: Instant,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Nothing,
    /// Announced; reading stops at the next transaction's end.
    Announced(i64),
    /// Reading stands still, the asker knows.
    Paused(i64, Instant),
    /// Reading goes on to here.
    Bound(i64, Lsn),
    /// The cut at the bound is under way.
    Cutting(i64, Lsn),
}

/// What the stream must do after a look at the requests.
pub(crate) enum Request {
    Nothing,
    CutAt(Lsn),
    Withdrawn,
}

impl Requests {
    /// `term` is that of the lease to renew.
    pub(crate) fn new(control: Arc<Control>, source: &str, term: Option<i64>) -> Self {
        Self {
            term,
            renew_at: Instant::now(),
            requests_at: Instant::now(),
            control,
            source: source.to_owned(),
            state: State::Nothing,
            rest_until: None,
            report_at: Instant::now(),
        }
    }

    /// Whether reading must stand still; inside a transaction it goes on to its end.
    pub(crate) fn hold_reading(&self, open: bool) -> bool {
        !open && matches!(self.state, State::Announced(_) | State::Paused(..))
    }

    /// Where a cut is wanted, if it is not under way yet.
    pub(crate) fn cut_at(&self) -> Option<Lsn> {
        match self.state {
            State::Bound(_, lsn) => Some(lsn),
            _ => None,
        }
    }

    /// A cut at `lsn` begins; if it is the one that was asked for, its watermark is the answer.
    pub(crate) fn begin_cut(&mut self, at: Lsn) {
        if let State::Bound(id, lsn) = self.state
            && at >= lsn
        {
            self.state = State::Cutting(id, at);
        }
    }

    /// Answers the request that this watermark fulfils; says whether there was one.
    pub(crate) async fn answer(&mut self, watermark: &Watermark) -> bool {
        let State::Cutting(id, lsn) = self.state else { return false };
        if watermark.lsn != lsn {
            return false;
        }
        self.state = State::Nothing;
        let answered = async {
            // A watermark is plain JSON, as the lake has it.
            let answer = serde_json::to_value(watermark).unwrap_or_default();
            self.control.finish_cut(id, &answer).await
        };
        match timeout(PATIENCE, answered).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("a cut that was asked for cannot be told: {:#}", chain(&error)),
            Err(_) => {
                tracing::warn!("a cut that was asked for cannot be told: the control database is silent")
            }
        }
        true
    }

    /// Looks at the control database; `routed` and `open` tell where the stream stands. Capture goes on without that
    /// database, and without askers who have gone away meanwhile.
    pub(crate) async fn poll(&mut self, routed: Lsn, open: bool) -> Request {
        if self.rest_until.is_some_and(|until| Instant::now() < until) {
            return Request::Nothing;
        }
        let failure = match timeout(PATIENCE, self.look(routed, open)).await {
            Ok(Ok(request)) => {
                self.rest_until = None;
                return request;
            }
            Ok(Err(lakeward_postgres::Error::CutNotIn { .. })) => None,
            Ok(Err(error)) => Some(chain(&error)),
            Err(_) => {
                self.control.hang_up().await;
                Some("no answer".to_owned())
            }
        };
        if let Some(reason) = failure {
            tracing::warn!("the control database cannot be read: {reason}; capture goes on without it");
            self.rest_until = Some(Instant::now() + REST);
        }
        // Reading must not stand still for an asker who cannot be heard.
        if matches!(self.state, State::Announced(_) | State::Paused(..)) {
            self.state = State::Nothing;
        }
        Request::Nothing
    }

    /// Tells other processes how the ingester stands, about once a second.
    pub(crate) async fn report(&mut self, progress: impl FnOnce() -> Progress) {
        let now = Instant::now();
        if now < self.report_at || self.rest_until.is_some_and(|until| now < until) {
            return;
        }
        self.report_at = now + REPORT;
        let state = serde_json::to_value(progress()).unwrap_or_default();
        // What fails here fails in the next look at the requests, too, and is told there.
        let _ = timeout(PATIENCE, self.control.report_ingester(&self.source, &state)).await;
    }

    /// Says now and then that the source's owner is alive. Capture goes on where that cannot be said: the slot has one
    /// reader, and the tables' terms keep a stale owner out.
    ///
    /// # Errors
    /// Another owner has taken over.
    pub(crate) async fn renew_lease(&mut self) -> Result<(), PipelineError> {
        let now = Instant::now();
        let Some(term) = self.term.filter(|_| now >= self.renew_at) else { return Ok(()) };
        self.renew_at = now + LEASE / 4;
        match timeout(PATIENCE, self.control.renew_lease(&self.source, term)).await {
            Ok(Err(lost @ lakeward_postgres::Error::LeaseLost { .. })) => return Err(lost.into()),
            Ok(Ok(())) => failpoint("lease_renewed").await?,
            _ => {}
        }
        Ok(())
    }

    /// The open requests that concern tables, about once a second.
    pub(crate) async fn table_requests(&mut self) -> Vec<TableRequest> {
        let now = Instant::now();
        if now < self.requests_at || self.rest_until.is_some_and(|until| now < until) {
            return Vec::new();
        }
        self.requests_at = now + REPORT;
        // A failure shows in the next look at the cuts, too, and is told there.
        let open = timeout(PATIENCE, self.control.open_table_requests(&self.source)).await;
        open.ok().and_then(Result::ok).unwrap_or_default()
    }

    async fn look(&mut self, routed: Lsn, open: bool) -> Result<Request, lakeward_postgres::Error> {
        if matches!(self.state, State::Cutting(..)) {
            return Ok(Request::Nothing);
        }
        let cuts = self.control.poll_open_cuts(&self.source).await?;
        let current = match self.state {
            State::Announced(id) | State::Paused(id, _) | State::Bound(id, _) | State::Cutting(id, _) => {
                Some(id)
            }
            State::Nothing => None,
        };
        let Some(cut) = cuts.iter().find(|cut| current.is_none_or(|id| cut.id == id)) else {
            let bound = matches!(self.state, State::Bound(..));
            self.state = State::Nothing;
            return Ok(if bound { Request::Withdrawn } else { Request::Nothing });
        };
        match (self.state, cut.at_lsn.map(Lsn)) {
            (State::Bound(..), _) => Ok(Request::Nothing),
            (_, Some(lsn)) if lsn < routed => {
                let reason = format!("the stream stands at {routed} already, beyond {lsn}");
                self.control.fail_cut(cut.id, &reason).await?;
                self.state = State::Nothing;
                Ok(Request::Nothing)
            }
            (_, Some(lsn)) => {
                self.state = State::Bound(cut.id, lsn);
                Ok(Request::CutAt(lsn))
            }
            (State::Paused(_, since), None) => {
                if since.elapsed() > LONGEST_PAUSE {
                    self.control.fail_cut(cut.id, "no snapshot was named in time").await?;
                    self.state = State::Nothing;
                }
                Ok(Request::Nothing)
            }
            (_, None) if cut.state == CutState::Announced && !open => {
                self.control.mark_paused(cut.id).await?;
                self.state = State::Paused(cut.id, Instant::now());
                Ok(Request::Nothing)
            }
            (_, None) => {
                self.state = State::Announced(cut.id);
                Ok(Request::Nothing)
            }
        }
    }
}

/// Answers a request that concerns a table. The work is done either way.
pub(crate) async fn answer_table(control: &Control, request: i64, answer: Result<&serde_json::Value, &str>) {
    let answered = timeout(PATIENCE, control.answer_table_request(request, answer)).await;
    if !matches!(answered, Ok(Ok(()))) {
        tracing::warn!("request {request} is done with, but the control database cannot be told");
    }
}
