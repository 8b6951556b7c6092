//! Which of several sidecars works, where each stands beside a member of its own: the one whose member leads.
//!
//! # Why nothing rests on it
//! Leadership saves work; it is not what keeps an archive right. Two that capture at once write the same of one lineage,
//! and each proves its history before it appends anything. So doubt favours capture:
//!
//! * A tenure begins when a quorum has confirmed it (`etcd/leader.rs`), and ends when the member itself says that it
//!   leads no more, or in another term. A question that is not answered ends nothing: most likely the leader is busy, and
//!   while its sidecar rested no other one would work. Where the member is gone, or cut off, the watch ends by itself; a
//!   new one begins with a new question.
//! * What was captured by the end of a tenure is stored as ever. It may be stored late, beside what the next one
//!   writes: each revision is then there twice.
//!
//! # Why a new tenure begins with the archive
//! What this process remembers of the lineage would still prove itself. But others may have ended that lineage
//! meanwhile, and opened another one: to go on with it would write two in turns, and a restore would ask which is meant.
//! Within one raft term no other member leads, and memory is as good as the archive.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::hopeless::is_hopeless;
use crate::archive::Archive;
use crate::capture::{Figures, Gauges};
use crate::error::{Error, ErrorKind, Result};
use crate::etcd::{EtcdOptions, Leadership, Member};
use crate::run::RunContext;

/// Between two questions to the member, each of them a lookup in its memory. It bounds how long nobody captures behind
/// an election, and how long two do.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// Between two questions of which none is answered, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// A quorum confirms a leader within one round trip, or it is not there.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(3);

/// When a sidecar works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Always.
    Always,
    /// While its member leads the cluster. The others stand by: they watch nothing, and write nothing.
    WhileLeading,
}

/// Says when to work.
pub(super) struct Rota<'a> {
    duty: Duty,
    etcd: &'a EtcdOptions,
    gauges: Gauges,
    member: Option<Member>,
    /// Of the newest tenure.
    raft_term: Option<u64>,
    stood_by: bool,
}

/// A time to work.
pub(super) struct Tenure {
    /// It is stopped at the end.
    pub(super) context: RunContext,
    /// Whether others may have written since the one before it.
    pub(super) is_new: bool,
    operator: CancellationToken,
    _watching: Option<AbortOnDropHandle<()>>,
}

impl Tenure {
    /// Whether it has ended while the operator wants no end.
    pub(super) fn is_lost(&self) -> bool {
        self.context.stop.is_cancelled() && !self.operator.is_cancelled()
    }
}

impl<'a> Rota<'a> {
    /// That of `duty` beside `etcd`.
    ///
    /// # Errors
    /// `Invalid` where leadership decides and it is not clear whose.
    pub(super) fn of(duty: Duty, etcd: &'a EtcdOptions, gauges: Gauges) -> Result<Self> {
        if duty == Duty::WhileLeading && etcd.endpoints.len() != 1 {
            let what = format!("--leader-only with {} --endpoints", etcd.endpoints.len());
            return Err(Error::new(ErrorKind::Invalid, what)
                .hint("start one sidecar beside each member, and give it that member's address alone"));
        }
        if duty == Duty::WhileLeading {
            gauges.note(|figures| figures.leads = Some(false));
        }
        Ok(Self { duty, etcd, gauges, member: None, raft_term: None, stood_by: false })
    }

    /// Where leadership decides: looks at `archive` as whoever takes over will. Who stands by would else hear of a wrong
    /// bucket or key on the day when it is needed.
    ///
    /// # Errors
    /// What is wrong from the start. Whatever may pass is told.
    pub(super) async fn rehearse(&self, archive: &Archive, context: &RunContext) -> Result<()> {
        if self.duty == Duty::Always {
            return Ok(());
        }
        let looked = async {
            if let Some(newest) = archive.catalogue().await?.newest_first().first() {
                archive.open(&newest.name).await?;
            }
            Ok(())
        };
        match context.unless_stopped(looked).await {
            Err(error) if error.kind() == ErrorKind::Interrupted || is_hopeless(&error) => Err(error),
            Err(error) => {
                context.warn(format!("the archive cannot be read now: {error}"));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Whether it has ever stood by: nothing is wrong from the start then.
    pub(super) fn has_stood_by(&self) -> bool {
        self.stood_by
    }

    /// Waits until there is something to do, and stands by till then; `None` where the operator stops it.
    ///
    /// # Errors
    /// Before it has worked or stood by: what is wrong from the start.
    pub(super) async fn tenure(&mut self, context: &RunContext) -> Result<Option<Tenure>> {
        let operator = context.stop.clone();
        if self.duty == Duty::Always {
            return Ok(Some(Tenure { context: context.clone(), is_new: false, operator, _watching: None }));
        }
        let (member, raft_term) = match context.unless_stopped(self.stand_by(context)).await {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(None),
            leading => leading?,
        };
        let stop = operator.child_token();
        let watching = tokio::spawn(watch(member, raft_term, stop.clone()));
        let is_new = self.raft_term.replace(raft_term) != Some(raft_term);
        if is_new {
            context.note(format!("working: its member leads in raft term {raft_term}"));
            self.gauges.note(Figures::forget_position);
        }
        self.gauges.note(|figures| figures.leads = Some(true));
        let context = RunContext { stop, ..context.clone() };
        Ok(Some(Tenure { context, is_new, operator, _watching: Some(AbortOnDropHandle::new(watching)) }))
    }

    async fn stand_by(&mut self, context: &RunContext) -> Result<(Member, u64)> {
        let (mut told, mut pause) = (String::new(), ASK_EVERY);
        loop {
            let why = match self.ask(context).await {
                Ok((member, Leadership::Leads { raft_term })) => return Ok((member, raft_term)),
                Ok((_, answer)) => {
                    (self.stood_by, pause) = (true, ASK_EVERY);
                    match answer {
                        Leadership::Unconfirmed => "no quorum has confirmed that its member leads".to_owned(),
                        _ => "its member does not lead".to_owned(),
                    }
                }
                Err(error) if !self.stood_by && self.raft_term.is_none() && is_hopeless(&error) => return Err(error),
                Err(error) => {
                    // The connection comes back by itself; whatever else it is, another one may help.
                    self.member = self.member.take().filter(|_| error.kind() == ErrorKind::Unavailable);
                    pause = LONGEST_PAUSE.min(pause * 2);
                    error.to_string()
                }
            };
            self.gauges.note(|figures| figures.leads = Some(false));
            if why != told {
                context.note(format!("standing by: {why}"));
                told = why;
            }
            sleep(pause).await;
        }
    }

    async fn ask(&mut self, context: &RunContext) -> Result<(Member, Leadership)> {
        let member = match &self.member {
            Some(member) => member.clone(),
            None => self.member.insert(Member::pin(self.etcd, &*context.monitor).await?).clone(),
        };
        let leadership = member.leadership(CONFIRMED_WITHIN).await?;
        Ok((member, leadership))
    }
}

/// Cancels `end` when `member` says that it leads no more.
async fn watch(member: Member, raft_term: u64, end: CancellationToken) {
    loop {
        sleep(ASK_EVERY).await;
        if matches!(member.still_leads(raft_term).await, Ok(false)) {
            end.cancel();
            return;
        }
    }
}
