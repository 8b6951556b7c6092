//! Object lock: whether the bucket has it, and for how long it locks what is written.

use aws_sdk_s3::types::{DefaultRetention, ObjectLockConfiguration, ObjectLockEnabled};

use crate::error::{ErrorKind, Result};
use crate::store::object::ObjectLock;
use crate::store::retry::Failure;
use crate::store::s3::Shared;
use crate::store::s3::failure::S3Failure;

/// Asks the bucket. A store that does not understand the question has no locks.
///
/// # Errors
/// `Denied` where it may not be asked; `Unavailable`.
pub(super) async fn of_bucket(shared: &Shared) -> Result<ObjectLock> {
    let mut attempts = shared.retry.begin();
    loop {
        let error = match shared.client.get_object_lock_configuration().bucket(&shared.bucket).send().await {
            Ok(answer) => return Ok(answer.object_lock_configuration().map(read).unwrap_or_default()),
            Err(error) => S3Failure::new(error),
        };
        match error.failure(shared.subject("ask about locks of", "the bucket")) {
            Failure::Final(error) if error.kind() != ErrorKind::Denied => return Ok(ObjectLock::Off),
            failure => attempts.again(failure).await?,
        }
    }
}

fn read(configuration: &ObjectLockConfiguration) -> ObjectLock {
    if configuration.object_lock_enabled() != Some(&ObjectLockEnabled::Enabled) {
        return ObjectLock::Off;
    }
    match configuration.rule().and_then(|rule| rule.default_retention()) {
        Some(retention) => ObjectLock::EveryObject {
            mode: retention.mode().map_or_else(String::new, |mode| mode.as_str().to_owned()),
            time: time(retention),
        },
        None => ObjectLock::On,
    }
}

fn time(retention: &DefaultRetention) -> String {
    match (retention.days(), retention.years()) {
        (Some(days), _) => format!("{days} days"),
        (None, Some(years)) => format!("{years} years"),
        (None, None) => "an unknown time".to_owned(),
    }
}
