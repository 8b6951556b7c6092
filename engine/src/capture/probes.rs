//! What no watch tells: compactions, users and roles, leases without keys, and that nothing happened.
//!
//! Asked seldom, because each question costs the source something: two of them are a raft entry each.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{Instant, sleep_until};

use crate::error::{ErrorKind, Result};
use crate::etcd::{AuthMark, Member};
use crate::revision::Revision;

/// Between two rounds of questions. A mark follows each of an idle source, and a rollup an hour of marks: together no more than
/// one object a minute.
const EVERY: Duration = Duration::from_secs(62);
/// Leases are listed in the first round, and then in every so many: they may be many.
const LEASE_ROUNDS: u32 = 5;

/// Answers of one round. What may not be asked (by this user, of a learner) is `None`.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) compact_revision: Option<Revision>,
    pub(super) auth: Option<AuthMark>,
    pub(super) leases: Option<Vec<i64>>,
    /// A linearizable read, the last question of all.
    pub(super) revision: Revision,
}

/// When to ask what, and the round that is under way.
pub(super) struct Probes {
    next: Instant,
    round: u32,
    asking: Option<BoxFuture<'static, Result<Answers>>>,
}

impl Probes {
    /// The first round is at once.
    pub(super) fn begin() -> Self {
        Self { next: Instant::now(), round: 0, asking: None }
    }

    /// Waits until a round is due, asks it and gives the answers. A call that is dropped loses nothing.
    ///
    /// # Errors
    /// Those of the member; the next round is asked in its time all the same.
    pub(super) async fn answers(&mut self, member: &Member) -> Result<Answers> {
        if self.asking.is_none() {
            sleep_until(self.next).await;
        }
        let lists_leases = self.round.is_multiple_of(LEASE_ROUNDS);
        let asking = self.asking.get_or_insert_with(|| Box::pin(ask(member.clone(), lists_leases)));
        let answers = asking.await;
        self.asking = None;
        self.next = Instant::now() + EVERY;
        self.round = self.round.wrapping_add(1);
        answers
    }
}

async fn ask(member: Member, lists_leases: bool) -> Result<Answers> {
    let compact_revision = member.compact_revision().await?;
    let auth = permitted(member.auth_mark().await)?;
    let leases = if lists_leases { permitted(member.leases().await)? } else { None };
    Ok(Answers { compact_revision, auth, leases, revision: member.linearizable_revision().await? })
}

/// `None` where the question may not be asked.
fn permitted<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Refused) => Ok(None),
        Err(error) => Err(error),
    }
}
