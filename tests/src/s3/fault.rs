//! Faults that a test plans, and the count of what was asked.

use std::collections::BTreeMap;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// PutObject
    Put,
    /// GetObject
    Get,
    /// HeadObject
    Head,
    /// DeleteObject
    Delete,
    /// ListObjectsV2
    List,
    /// CreateMultipartUpload
    Create,
    /// UploadPart
    Part,
    /// CompleteMultipartUpload
    Complete,
    /// AbortMultipartUpload
    Abort,
    /// ListMultipartUploads
    ListUploads,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// An error answer of this status and S3 code; nothing is done.
    Answer(u16, &'static str),
    /// Status 200, an error in the body: CompleteMultipartUpload may do that.
    ErrorInside(&'static str),
    /// The connection is cut once so many bytes of the request's body have come; nothing is done.
    CutRequest(usize),
    /// Everything is done, then the connection is cut without an answer.
    LoseAnswer,
    /// The answer's body breaks off after so many bytes.
    CutBody(usize),
    /// The answer's body comes a byte at a time, 10 ms apart.
    Trickle,
    /// No answer at all while the connection stays open.
    Silence,
    /// The object is replaced before the request is served.
    Replace,
    /// The range that was asked for is ignored and the whole object sent.
    IgnoreRange,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) counts: BTreeMap<Operation, u64>,
    planned: Vec<Planned>,
}

#[derive(Debug)]
struct Planned {
    operation: Operation,
    first: u64,
    last: u64,
    act: Act,
}

impl Faults {
    /// Plans `act` for the requests `nth`, `nth` + 1, … of `operation` from now (1: the next), `times` of them.
    pub(super) fn plan(&mut self, operation: Operation, nth: u64, times: u64, act: Act) {
        let first = self.counts.get(&operation).copied().unwrap_or_default() + nth;
        self.planned.push(Planned { operation, first, last: first.saturating_add(times - 1), act });
    }

    /// Forgets what was planned.
    pub(super) fn heal(&mut self) {
        self.planned.clear();
    }

    /// Counts a request.
    pub(super) fn strike(&mut self, operation: Operation) -> Option<Act> {
        let count = self.counts.entry(operation).or_default();
        *count += 1;
        let hit =
            |planned: &&Planned| planned.operation == operation && (planned.first..=planned.last).contains(&*count);
        self.planned.iter().find(hit).map(|planned| planned.act)
    }
}
