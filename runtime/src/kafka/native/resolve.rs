//! Brokers whose names a function of the client's context resolves.
//!
//! librdkafka asks the context before every connection, whatever named the broker: the
//! configuration, metadata, or a group's coordinator. It connects to the addresses in the
//! answer and to no others.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use rdkafka::client::{Client, ClientContext};
use rdkafka_sys::bindings as sys;

/// A client's context that resolves the names of brokers.
pub trait Resolve: ClientContext {
    /// Returns the addresses of a broker; none if there is to be no connection. It may wait
    /// for a name server: librdkafka calls it in the broker's thread.
    fn resolve(&self, host: &str, port: u16) -> Vec<SocketAddr>;
}

type ResolveCallback = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    *const libc::addrinfo,
    *mut *mut libc::addrinfo,
    *mut c_void,
) -> c_int;

unsafe extern "C" {
    // The bindings leave it out, because of `addrinfo`.
    fn rd_kafka_conf_set_resolve_cb(
        conf: *mut sys::rd_kafka_conf_t,
        resolve_cb: Option<ResolveCallback>,
    );
}

/// Adds bootstrap brokers, separated by commas, to a client that was created without any.
/// From then on its context resolves the names of all brokers. Returns `false` if the text
/// names no broker.
pub fn add_brokers<C: Resolve>(client: &Client<C>, brokers: &str) -> bool {
    let Ok(brokers) = CString::new(brokers) else {
        return false;
    };
    // SAFETY: the configuration lives as long as the client, and its opaque pointer is the
    // context, which `rdkafka` keeps until the client is destroyed. librdkafka reads the
    // callback in the thread of a broker that has a name. There is none yet: the threads of
    // its internal brokers get names from the metadata of those that are added here, under
    // locks that order the write before the reads.
    unsafe {
        let conf = sys::rd_kafka_conf(client.native_ptr()).cast_mut();
        rd_kafka_conf_set_resolve_cb(conf, Some(resolve::<C>));
        sys::rd_kafka_brokers_add(client.native_ptr(), brokers.as_ptr()) > 0
    }
}

/// Has the contract of `getaddrinfo`, and, without a node, of `freeaddrinfo`.
///
/// SAFETY: `node` and `service` are text or null, `hints` is valid where `node` is not null,
/// `result` may be written, and `opaque` is the client's context.
unsafe extern "C" fn resolve<C: Resolve>(
    node: *const c_char,
    service: *const c_char,
    hints: *const libc::addrinfo,
    result: *mut *mut libc::addrinfo,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: by the contract above; a list to be freed was made by `Addresses::list`.
    unsafe {
        if node.is_null() {
            Address::free(*result);
            return 0;
        }
        let context = &*opaque.cast::<C>();
        let host = CStr::from_ptr(node).to_string_lossy();
        let port = match service.is_null() {
            true => 0,
            false => CStr::from_ptr(service)
                .to_string_lossy()
                .parse()
                .unwrap_or(0),
        };
        let family = (*hints).ai_family;
        // A panic must not cross into librdkafka, which would end the process.
        let resolved = catch_unwind(AssertUnwindSafe(|| context.resolve(&host, port)));
        let Ok(mut addresses) = resolved else {
            return libc::EAI_FAIL;
        };
        addresses.retain(|address| family == libc::AF_UNSPEC || family == family_of(address));
        *result = Address::list(&addresses, &*hints);
        match addresses.is_empty() {
            true => libc::EAI_NONAME,
            false => 0,
        }
    }
}

fn family_of(address: &SocketAddr) -> c_int {
    match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    }
}

/// An entry of the list, with the address that it points to.
#[repr(C)]
struct Address {
    info: libc::addrinfo,
    storage: libc::sockaddr_storage,
}

impl Address {
    /// Returns the first entry of a list, which [`free`](Self::free) takes back; null without
    /// addresses.
    fn list(addresses: &[SocketAddr], hints: &libc::addrinfo) -> *mut libc::addrinfo {
        let mut first = ptr::null_mut();
        for address in addresses.iter().rev() {
            // SAFETY: both structures are plain data for which zeros are valid.
            let mut entry: Box<Self> = Box::new(unsafe { mem::zeroed() });
            entry.info.ai_family = family_of(address);
            entry.info.ai_socktype = hints.ai_socktype;
            entry.info.ai_protocol = hints.ai_protocol;
            entry.info.ai_next = first;
            let storage = ptr::from_mut(&mut entry.storage);
            // SAFETY: the storage is large enough and aligned for either kind of address.
            entry.info.ai_addrlen = unsafe { write(address, storage) };
            entry.info.ai_addr = storage.cast();
            first = Box::into_raw(entry).cast();
        }
        first
    }

    /// SAFETY: the list is one of [`list`](Self::list), and nobody uses it any more.
    unsafe fn free(mut entry: *mut libc::addrinfo) {
        while !entry.is_null() {
            // SAFETY: each entry is the first field of an `Address` in a box.
            let address = unsafe { Box::from_raw(entry.cast::<Self>()) };
            entry = address.info.ai_next;
        }
    }
}

/// Writes an address as the system has it. Returns its length.
///
/// SAFETY: `storage` may be written, and is zeroed.
unsafe fn write(address: &SocketAddr, storage: *mut libc::sockaddr_storage) -> libc::socklen_t {
    let length = match address {
        SocketAddr::V4(address) => {
            // SAFETY: by the contract above.
            let to = unsafe { &mut *storage.cast::<libc::sockaddr_in>() };
            to.sin_family = libc::AF_INET as libc::sa_family_t;
            to.sin_port = address.port().to_be();
            to.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
            mem::size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(address) => {
            // SAFETY: by the contract above.
            let to = unsafe { &mut *storage.cast::<libc::sockaddr_in6>() };
            to.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            to.sin6_port = address.port().to_be();
            to.sin6_addr.s6_addr = address.ip().octets();
            to.sin6_flowinfo = address.flowinfo();
            to.sin6_scope_id = address.scope_id();
            mem::size_of::<libc::sockaddr_in6>()
        }
    };
    length as libc::socklen_t
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use parking_lot::Mutex;
    use rdkafka::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
    use rdkafka::mocking::MockCluster;

    use super::*;

    /// Knows one name, and keeps what it was asked for.
    struct Names {
        known: Vec<SocketAddr>,
        asked: Mutex<Vec<(String, u16)>>,
    }

    impl ClientContext for Names {}
    impl ConsumerContext for Names {}

    impl Resolve for Names {
        fn resolve(&self, host: &str, port: u16) -> Vec<SocketAddr> {
            self.asked.lock().push((host.to_owned(), port));
            match host {
                "a-name-of-ours" => self.known.clone(),
                _ => Vec::new(),
            }
        }
    }

    fn consumer(known: Vec<SocketAddr>) -> BaseConsumer<Names> {
        let names = Names {
            known,
            asked: Mutex::default(),
        };
        let mut config = ClientConfig::new();
        config.set("group.id", "billing.orders");
        config.create_with_context(names).unwrap()
    }

    #[test]
    fn every_connection_goes_to_an_address_that_the_context_gave() {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("orders", 1, 1).unwrap();
        let address: SocketAddr = kafka.bootstrap_servers().parse().unwrap();
        // The first address, of each family, leads nowhere.
        let nowhere: SocketAddr = "[::1]:1".parse().unwrap();
        let consumer = consumer(vec![nowhere, address]);
        assert!(add_brokers(consumer.client(), "a-name-of-ours:7"));
        let metadata = consumer
            .fetch_metadata(Some("orders"), Duration::from_secs(20))
            .unwrap();
        assert_eq!(metadata.brokers().len(), 1);
        let names = consumer.client().context();
        assert_eq!(names.asked.lock()[0], ("a-name-of-ours".to_owned(), 7));

        // The coordinator is at the address that the broker advertises, which the context
        // does not know.
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition("orders", 0);
        let advertised = (address.ip().to_string(), address.port());
        let was_asked = || names.asked.lock().contains(&advertised);
        for _ in 0..30 {
            let committed = consumer.committed_offsets(list.clone(), Duration::from_secs(1));
            assert!(committed.is_err(), "{committed:?}");
            if was_asked() {
                break;
            }
        }
        assert!(was_asked(), "{:?}", names.asked.lock());
    }

    #[test]
    fn a_text_without_brokers_adds_none() {
        let consumer = consumer(Vec::new());
        assert!(!add_brokers(consumer.client(), ""));
        assert!(!add_brokers(consumer.client(), "a\0b:1"));
    }
}
