//! The addresses of a cluster: a private network of the machine and one node.

use std::net::Ipv4Addr;

/// How many clusters a machine can have.
pub const CLUSTERS: u8 = 16;

/// The second byte of the first cluster's addresses, 10.208.0.0/16.
const FIRST: u8 = 208;

/// The network of cluster `number`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network {
    number: u8,
}

impl Network {
    pub(super) fn of(number: u8) -> Self {
        Self { number }
    }

    /// The machine's address, where the API server, DNS and Kafka listen.
    pub(super) fn host(self) -> Ipv4Addr {
        self.address(0, 1)
    }

    /// The node's address.
    pub(super) fn node(self) -> Ipv4Addr {
        self.address(0, 2)
    }

    /// All of it, which the machine routes to the node.
    pub(super) fn all(self) -> String {
        format!("{}/16", self.address(0, 0))
    }

    /// The pods' part.
    pub(super) fn pods(self) -> String {
        format!("{}/24", self.address(1, 0))
    }

    /// The services' part.
    pub(super) fn services(self) -> String {
        format!("{}/20", self.address(16, 0))
    }

    /// The machine's end of the link to the node.
    pub(super) fn device(self) -> String {
        format!("penstock{}", self.number)
    }

    fn address(self, third: u8, fourth: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, FIRST + self.number, third, fourth)
    }
}
