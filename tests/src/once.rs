//! Records that handlers gave to produce: each is there exactly once.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::produce::Produced;
use crate::recorder::{Delivery, Reply};
use crate::topics::{self, Stored, TopicError};

/// Why records can't be judged, or what is wrong with them.
#[derive(Debug, thiserror::Error)]
pub enum OnceError {
    /// They can't be read.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// One does not name the message that it was made of.
    #[error("{0} does not name its message")]
    Nameless(String),
    /// Messages have more than one record, or none.
    #[error("twice: {twice:?}, missing: {missing:?}")]
    NotOnce {
        /// Messages with more than one, by partition and offset; or that never were.
        twice: Vec<(i64, i64)>,
        /// Messages without one.
        missing: BTreeSet<(i64, i64)>,
    },
}

/// A record that [`reply`] gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The partition of its message.
    pub partition: i64,
    /// The offset of its message.
    pub offset: i64,
    /// The key of its message.
    pub key: String,
}

/// Answers that a message is handled, and gives a record to `topic` that names it.
pub fn reply(topic: &str, delivery: &Delivery) -> Reply {
    let key = delivery.key.as_deref().unwrap_or_default();
    let (partition, offset) = (delivery.position.partition, delivery.position.offset);
    let data = json!({ "partition": partition, "offset": offset });
    Reply::produce(topic, key, &data)
}

/// Reads all committed records of `topic`, in their order.
///
/// # Errors
/// [`OnceError`] when they can't be read, or one was not given by [`reply`].
pub async fn outputs(bootstrap: &str, topic: &str) -> Result<Vec<Output>, OnceError> {
    let records = topics::read_all(bootstrap, topic).await?;
    records.iter().map(output).collect()
}

fn output(record: &Stored) -> Result<Output, OnceError> {
    let nameless = || OnceError::Nameless(record.position.to_string());
    let data: Value = serde_json::from_slice(record.value.as_deref().unwrap_or_default())
        .map_err(|_| nameless())?;
    let number = |name: &str| data[name].as_i64().ok_or_else(nameless);
    let key = record.key.as_deref().unwrap_or_default();
    Ok(Output {
        partition: number("partition")?,
        offset: number("offset")?,
        key: String::from_utf8_lossy(key).into_owned(),
    })
}

/// Reads where the messages of dead letters lay, by partition and offset.
///
/// # Errors
/// [`OnceError`] when they can't be read, or one does not say.
pub async fn origins(bootstrap: &str, topic: &str) -> Result<Vec<(i64, i64)>, OnceError> {
    let letters = topics::read_all(bootstrap, topic).await?;
    let origin = |letter: &Stored| {
        let number = |name: &str| {
            let name = format!("penstock.failure.{name}");
            let (_, value) = letter.headers.iter().find(|(known, _)| *known == name)?;
            String::from_utf8_lossy(value.as_deref()?).parse().ok()
        };
        let found = number("partition").zip(number("offset"));
        found.ok_or_else(|| OnceError::Nameless(letter.position.to_string()))
    };
    letters.iter().map(origin).collect()
}

/// Holds that each message has one record, and that there are no others.
///
/// # Errors
/// [`OnceError::NotOnce`] otherwise.
pub fn each_once<'a>(
    messages: impl IntoIterator<Item = &'a Produced>,
    found: impl IntoIterator<Item = (i64, i64)>,
) -> Result<(), OnceError> {
    let mut missing: BTreeSet<_> = messages
        .into_iter()
        .map(|one| (i64::from(one.position.partition), one.position.offset))
        .collect();
    let found = found.into_iter();
    let twice: Vec<_> = found.filter(|one| !missing.remove(one)).collect();
    match twice.is_empty() && missing.is_empty() {
        true => Ok(()),
        false => Err(OnceError::NotOnce { twice, missing }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Position;

    #[test]
    fn a_record_too_many_and_one_too_few_are_found() {
        let produced: Vec<_> = (0..3)
            .map(|seq| Produced {
                seq,
                position: Position::new("t", 0, i64::try_from(seq).unwrap()),
            })
            .collect();
        assert!(each_once(&produced, [(0, 1), (0, 0), (0, 2)]).is_ok());
        for found in [vec![(0, 0), (0, 1)], vec![(0, 0), (0, 1), (0, 1), (0, 2)]] {
            assert!(each_once(&produced, found.clone()).is_err(), "{found:?}");
        }
        assert!(each_once(&[], [(0, 0)]).is_err(), "of no message");
    }
}
