//! Kafka's own protocol, for the few requests that librdkafka's bindings do not offer.
//!
//! A request goes to one broker on a connection of its own, without encryption. Fields
//! are in the order of Kafka's message definitions; a "flexible" version writes lengths
//! as varints and ends each structure with tagged fields, of which there are none here.

mod fields;

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use fields::{Reader, Writer};

/// The maximum time for one request.
const LIMIT: Duration = Duration::from_secs(15);

/// A request failed.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The broker can't be reached, or left.
    #[error("{broker}: {error}")]
    Io {
        /// The broker's address.
        broker: String,
        /// The cause.
        error: io::Error,
    },
    /// The answer ends early, or is for another request.
    #[error("{broker}: an answer that can't be read")]
    Unreadable {
        /// The broker's address.
        broker: String,
    },
    /// The broker refused, with a code of Kafka's protocol.
    #[error("{what}: error code {code} {reason}")]
    Refused {
        /// The request.
        what: &'static str,
        /// The code.
        code: i16,
        /// The broker's words, if any.
        reason: String,
    },
}

/// Which leader an election gives a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Election {
    /// The first of its replicas, which must be in sync.
    Preferred,
    /// Any replica that is up, although it lacks messages.
    Unclean,
}

/// A consumer group of KIP-848, as its coordinator describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerGroup {
    /// `Stable`, `Assigning`, `Reconciling`, `Empty` or `Dead`.
    pub state: String,
    /// Its members: id and client id.
    pub members: Vec<(String, String)>,
}

/// The code for "there is no such group".
const GROUP_ID_NOT_FOUND: i16 = 69;

/// The code for "an election changed nothing": the wanted leader leads already.
const ELECTION_NOT_NEEDED: i16 = 84;

/// The type of a group among the resources that have configuration.
const GROUP_RESOURCE: i8 = 32;

/// A broker that is asked.
#[derive(Clone, Debug)]
pub struct Broker(String);

impl Broker {
    /// The broker at `host:port`; of several addresses the first.
    pub fn at(address: &str) -> Self {
        Self(address.split(',').next().unwrap_or_default().to_owned())
    }

    /// Returns the id and the address of the broker that coordinates `group`.
    ///
    /// # Errors
    /// [`WireError`] when there is none now, for instance.
    pub fn coordinator(&self, group: &str) -> Result<(i32, String), WireError> {
        let mut request = Writer::new(false);
        request.string(group);
        request.i8(0);
        let bytes = self.ask(10, 2, request)?;
        let mut answer = Reader::new(&bytes, false);
        let read = |answer: &mut Reader<'_>| {
            answer.skip_throttle()?;
            let code = (answer.i16()?, answer.string()?);
            Some((code, answer.i32()?, answer.string()?, answer.i32()?))
        };
        let ((code, reason), id, host, port) = self.readable(read(&mut answer))?;
        refused("finding the coordinator", code, reason)?;
        Ok((id, format!("{host}:{port}")))
    }

    /// Gives the partitions of `topic` these replicas, the preferred leader first. The
    /// move is not over when this returns.
    ///
    /// # Errors
    /// [`WireError`] when the controller refuses.
    pub fn reassign(
        &self,
        topic: &str,
        partitions: &[i32],
        replicas: &[i32],
    ) -> Result<(), WireError> {
        let mut request = Writer::new(true);
        request.i32(milliseconds());
        request.array(1);
        request.string(topic);
        request.array(partitions.len());
        for partition in partitions {
            request.i32(*partition);
            request.array(replicas.len());
            replicas.iter().for_each(|replica| request.i32(*replica));
            request.tags();
        }
        request.tags();
        request.tags();
        let bytes = self.ask(45, 0, request)?;
        let mut answer = Reader::new(&bytes, true);
        let codes = self.readable(read_reassigned(&mut answer))?;
        for (code, reason) in codes {
            refused("moving replicas", code, reason)?;
        }
        Ok(())
    }

    /// Elects leaders of partitions of `topic`.
    ///
    /// # Errors
    /// [`WireError`] when the controller refuses for one of them.
    pub fn elect(
        &self,
        topic: &str,
        partitions: &[i32],
        election: Election,
    ) -> Result<(), WireError> {
        let mut request = Writer::new(false);
        request.i8(match election {
            Election::Preferred => 0,
            Election::Unclean => 1,
        });
        request.array(1);
        request.string(topic);
        request.array(partitions.len());
        partitions
            .iter()
            .for_each(|partition| request.i32(*partition));
        request.i32(milliseconds());
        let bytes = self.ask(43, 1, request)?;
        let mut answer = Reader::new(&bytes, false);
        for (code, reason) in self.readable(read_elected(&mut answer))? {
            if code != ELECTION_NOT_NEEDED {
                refused("electing a leader", code, reason)?;
            }
        }
        Ok(())
    }

    /// Sets properties of a consumer group, by the names that KIP-848 gives them.
    ///
    /// # Errors
    /// [`WireError`] when the broker refuses.
    pub fn configure_group(
        &self,
        group: &str,
        properties: &[(&str, &str)],
    ) -> Result<(), WireError> {
        let mut request = Writer::new(false);
        request.array(1);
        request.i8(GROUP_RESOURCE);
        request.string(group);
        request.array(properties.len());
        for (name, value) in properties {
            request.string(name);
            request.i8(0);
            request.string(value);
        }
        request.i8(0);
        let bytes = self.ask(44, 0, request)?;
        let mut answer = Reader::new(&bytes, false);
        let read = |answer: &mut Reader<'_>| {
            answer.skip_throttle()?;
            answer.array(|one| {
                let code = (one.i16()?, one.string()?);
                one.i8()?;
                one.string()?;
                Some(code)
            })
        };
        for (code, reason) in self.readable(read(&mut answer))? {
            refused("configuring a group", code, reason)?;
        }
        Ok(())
    }

    /// Describes a group of KIP-848, of which this broker is the coordinator; nothing
    /// where there is no such group, or it has another protocol.
    ///
    /// # Errors
    /// [`WireError`] when the broker refuses.
    pub fn consumer_group(&self, group: &str) -> Result<Option<ConsumerGroup>, WireError> {
        let mut request = Writer::new(true);
        request.array(1);
        request.string(group);
        request.i8(0);
        request.tags();
        let bytes = self.ask(69, 0, request)?;
        let mut answer = Reader::new(&bytes, true);
        let described = self.readable(read_groups(&mut answer))?;
        let Some((code, reason, group)) = described.into_iter().next() else {
            return Ok(None);
        };
        if code == GROUP_ID_NOT_FOUND {
            return Ok(None);
        }
        refused("describing a group", code, reason)?;
        Ok(Some(group))
    }

    fn readable<T>(&self, read: Option<T>) -> Result<T, WireError> {
        read.ok_or_else(|| WireError::Unreadable {
            broker: self.0.clone(),
        })
    }

    /// Sends one request and returns the answer's body.
    fn ask(&self, api: i16, version: i16, request: Writer) -> Result<Vec<u8>, WireError> {
        let flexible = request.is_flexible();
        let exchanged = self.exchange(api, version, request);
        let answer = exchanged.map_err(|error| WireError::Io {
            broker: self.0.clone(),
            error,
        })?;
        // The correlation id, and the header's tags.
        let head = if flexible { 5 } else { 4 };
        self.readable(answer.get(head..).map(<[u8]>::to_vec))
    }

    fn exchange(&self, api: i16, version: i16, request: Writer) -> io::Result<Vec<u8>> {
        let mut addresses = self.0.to_socket_addrs()?;
        let address = addresses.next().ok_or(io::ErrorKind::NotFound)?;
        let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        stream.write_all(&request.framed(api, version)?)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).map_err(io::Error::other)?;
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }
}

/// The codes for each partition, after the one for all.
fn read_reassigned(answer: &mut Reader<'_>) -> Option<Vec<(i16, String)>> {
    answer.skip_throttle()?;
    let mut codes = vec![(answer.i16()?, answer.string()?)];
    let topics = answer.array(|topic| {
        topic.string()?;
        let partitions = topic.array(|partition| {
            partition.i32()?;
            let code = (partition.i16()?, partition.string()?);
            partition.tags()?;
            Some(code)
        })?;
        topic.tags()?;
        Some(partitions)
    })?;
    codes.extend(topics.into_iter().flatten());
    Some(codes)
}

fn read_elected(answer: &mut Reader<'_>) -> Option<Vec<(i16, String)>> {
    answer.skip_throttle()?;
    let mut codes = vec![(answer.i16()?, String::new())];
    let topics = answer.array(|topic| {
        topic.string()?;
        topic.array(|partition| {
            partition.i32()?;
            Some((partition.i16()?, partition.string()?))
        })
    })?;
    codes.extend(topics.into_iter().flatten());
    Some(codes)
}

fn read_groups(answer: &mut Reader<'_>) -> Option<Vec<(i16, String, ConsumerGroup)>> {
    answer.skip_throttle()?;
    answer.array(|group| {
        let (code, reason) = (group.i16()?, group.string()?);
        group.string()?;
        let state = group.string()?;
        group.i32()?;
        group.i32()?;
        group.string()?;
        let members = group.array(read_member)?;
        group.i32()?;
        group.tags()?;
        Some((code, reason, ConsumerGroup { state, members }))
    })
}

fn read_member(member: &mut Reader<'_>) -> Option<(String, String)> {
    let id = member.string()?;
    member.string()?;
    member.string()?;
    member.i32()?;
    let client_id = member.string()?;
    member.string()?;
    member.array(Reader::string)?;
    member.string()?;
    for _ in ["assignment", "target assignment"] {
        member.array(|topic| {
            topic.skip(16)?;
            topic.string()?;
            topic.array(Reader::i32)?;
            topic.tags()
        })?;
        member.tags()?;
    }
    member.tags()?;
    Some((id, client_id))
}

fn refused(what: &'static str, code: i16, reason: String) -> Result<(), WireError> {
    match code {
        0 => Ok(()),
        code => Err(WireError::Refused { what, code, reason }),
    }
}

fn milliseconds() -> i32 {
    i32::try_from(LIMIT.as_millis()).unwrap_or(i32::MAX)
}
