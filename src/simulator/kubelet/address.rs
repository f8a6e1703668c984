//! Addresses for pods: a CIDR, and the pool that gives each pod the lowest free one. Used by the pod
//! workers. All of 127.0.0.0/8 is loopback on Linux, so every pod of the default CIDR can listen on
//! the same ports as every other.

use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An IPv4 network in CIDR notation, such as `127.42.0.0/16`; or one address, such as `127.0.0.2/32`, which is
/// the one pod's whoever listens there: for a pod that runs beside the simulator already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: u32,
    prefix: u8,
}

/// Why a text is no [`Cidr`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not an IPv4 network: write ADDRESS/PREFIX with a prefix of 8 to 30, such as 127.42.0.0/16, or of 32 for one address"
)]
pub struct NotACidr(String);

impl Default for Cidr {
    fn default() -> Self {
        Self { base: u32::from(Ipv4Addr::new(127, 42, 0, 0)), prefix: 16 }
    }
}

impl FromStr for Cidr {
    type Err = NotACidr;

    fn from_str(text: &str) -> Result<Self, NotACidr> {
        let error = || NotACidr(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let address: Ipv4Addr = address.parse().map_err(|_| error())?;
        let prefix: u8 = prefix.parse().map_err(|_| error())?;
        if !matches!(prefix, 8..=30 | 32) {
            return Err(error());
        }
        Ok(Self { base: u32::from(address) & (u32::MAX << (32 - prefix)), prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

impl Cidr {
    /// How many addresses pods can have: all but the network's own and the broadcast address.
    fn hosts(self) -> u32 {
        if self.is_one_address() { 1 } else { (1 << (32 - self.prefix)) - 2 }
    }

    fn is_one_address(self) -> bool {
        self.prefix == 32
    }

    /// The first address that a pod can have.
    pub fn first(self) -> Ipv4Addr {
        self.host(1)
    }

    fn host(self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(if self.is_one_address() { self.base } else { self.base + number })
    }
}

/// What a pod listens on: an address on which this TCP port is taken belongs to somebody else.
const POD_PORT: u16 = 8888;

/// Addresses in a row that may turn out to be taken by others before the pool counts as exhausted.
const MOST_SKIPPED: u32 = 4096;

/// The addresses of one kubelet.
#[derive(Clone, Debug)]
pub(super) struct AddressPool {
    cidr: Cidr,
    used: Arc<Mutex<BTreeSet<u32>>>,
}

/// A pod's address; free again when this is dropped.
#[derive(Debug)]
pub(super) struct Address {
    ip: Ipv4Addr,
    number: u32,
    used: Arc<Mutex<BTreeSet<u32>>>,
    /// Other simulators of this machine see by it that the address is taken.
    _claim: Option<UdpSocket>,
}

impl Address {
    pub(super) fn ip(&self) -> Ipv4Addr {
        self.ip
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        lock(&self.used).remove(&self.number);
    }
}

impl AddressPool {
    pub(super) fn new(cidr: Cidr) -> Self {
        Self { cidr, used: Arc::default() }
    }

    /// The lowest address that neither a pod here nor anyone else on this machine uses.
    pub(super) fn allocate(&self) -> Option<Address> {
        let mut used = lock(&self.used);
        let mut skipped = 0;
        let mut number = 0;
        while number < self.cidr.hosts() && skipped < MOST_SKIPPED {
            number += 1;
            if used.contains(&number) {
                continue;
            }
            let ip = self.cidr.host(number);
            let claim = if self.cidr.is_one_address() { Claim::Ours(None) } else { claim(ip) };
            if let Claim::Ours(claim) = claim {
                used.insert(number);
                return Some(Address { ip, number, used: Arc::clone(&self.used), _claim: claim });
            }
            skipped += 1;
        }
        None
    }
}

enum Claim {
    Ours(Option<UdpSocket>),
    Taken,
}

/// Claims an address among all simulators of this machine. A UDP socket that is bound to it for as
/// long as the pod lives is a lock that no crash leaves behind (nothing of Gluetun's listens on UDP
/// 8888); the TCP port shows anybody else's server. An address that is not this machine's (a pod CIDR
/// off loopback) can be neither bound nor taken.
fn claim(ip: Ipv4Addr) -> Claim {
    let address = SocketAddrV4::new(ip, POD_PORT);
    let udp = match UdpSocket::bind(address) {
        Ok(socket) => Some(socket),
        Err(error) if error.kind() == ErrorKind::AddrInUse => return Claim::Taken,
        Err(_) => None,
    };
    match TcpListener::bind(address) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => Claim::Taken,
        Ok(_) | Err(_) => Claim::Ours(udp),
    }
}

fn lock(used: &Mutex<BTreeSet<u32>>) -> MutexGuard<'_, BTreeSet<u32>> {
    used.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Networks that no other test of this machine uses, so that the tests can run side by side.
    fn pool(cidr: &str) -> AddressPool {
        AddressPool::new(cidr.parse().unwrap())
    }

    #[test]
    fn reads_a_network_and_says_what_is_wrong_with_one() {
        assert_eq!("127.42.3.4/16".parse::<Cidr>().unwrap().to_string(), "127.42.0.0/16");
        assert_eq!("127.42.0.0/16".parse::<Cidr>().unwrap(), Cidr::default());
        for bad in ["", "127.42.0.0", "127.42.0.0/31", "127.42.0.0/7", "x/16", "::1/16", "127.42.0.0/x"] {
            let error = bad.parse::<Cidr>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{bad}`")), "{error}");
        }
    }

    #[test]
    fn gives_the_lowest_free_address_and_takes_it_back() {
        let pool = pool("127.217.0.0/29");
        let mut held: Vec<_> = (0..6).map(|_| pool.allocate().unwrap()).collect();
        let ips: Vec<_> = held.iter().map(|a| a.ip().to_string()).collect();
        assert_eq!(
            ips,
            ["127.217.0.1", "127.217.0.2", "127.217.0.3", "127.217.0.4", "127.217.0.5", "127.217.0.6"]
        );
        assert!(pool.allocate().is_none(), "six hosts in a /29");
        held.remove(3);
        held.remove(1);
        assert_eq!(pool.allocate().unwrap().ip().to_string(), "127.217.0.2");
    }

    #[test]
    fn one_address_is_given_whoever_listens_there() {
        let _server = TcpListener::bind("127.217.2.9:8888").unwrap();
        let pool = pool("127.217.2.9/32");
        assert_eq!(pool.cidr.to_string(), "127.217.2.9/32");
        let held = pool.allocate().unwrap();
        assert_eq!((held.ip(), pool.cidr.first()), (held.ip(), held.ip()));
        assert_eq!(held.ip().to_string(), "127.217.2.9");
        assert!(pool.allocate().is_none());
    }

    #[test]
    fn passes_over_what_another_simulator_or_server_uses() {
        let (ours, other) = (pool("127.217.1.0/29"), pool("127.217.1.0/29"));
        let first = other.allocate().unwrap();
        let _server = TcpListener::bind("127.217.1.2:8888").unwrap();
        assert_eq!(ours.allocate().unwrap().ip().to_string(), "127.217.1.3");
        drop(first);
        assert_eq!(ours.allocate().unwrap().ip().to_string(), "127.217.1.1");
    }
}
