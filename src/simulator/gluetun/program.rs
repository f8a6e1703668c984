//! The look-alike as a program of its own: one process in one container of a real cluster, packed under
//! Gluetun's image name. Run by `main` when the program is called `gluetun-entrypoint`.
//!
//! It insists on what the real program insists on (NET_ADMIN, `/dev/net/tun`), so that a manifest that
//! lacks either fails as it would in production. What its image sets for it:
//!
//! | Variable | Default | Means |
//! |---|---|---|
//! | `LOOKALIKE_START` | `2s` | from exec to healthy |
//! | `LOOKALIKE_HOSTS` | none | `NAME=ADDRESS`, separated by commas: destinations dialled elsewhere |
//!
//! SIGUSR1 makes it take memory until its limit kills it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::entrypoint::{self, Command};
use super::{Gluetun, Logger, Options, fail};
use crate::signal::Signals as Caught;
use crate::simulator::container::{ContainerSpec, Log, Signals};

/// The name by which the program is the look-alike: that of Gluetun's own entrypoint.
pub const ENTRYPOINT: &str = "gluetun-entrypoint";
/// `CAP_NET_ADMIN` of `linux/capability.h`.
const NET_ADMIN: u32 = 12;
/// The device of every VPN in user space.
const TUN: &str = "/dev/net/tun";
/// A destination that nothing is sent to: connecting a datagram socket only asks which address of this
/// host's the packets would have (RFC 5737's range).
const ANYWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);
/// What SIGUSR1 takes at a time.
const MEMORY_STEP: usize = 16 << 20;
/// And in all: more than any limit of a VPN pod's, less than a machine.
const MEMORY_MOST: usize = 2 << 30;
/// Between two steps, so that the process goes on serving until it is killed.
const MEMORY_PAUSE: Duration = Duration::from_millis(10);

/// Why the image's own settings are no good.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// A variable of the image does not parse.
    #[error("{name}: {why}")]
    Setting {
        /// The variable.
        name: &'static str,
        /// What is wrong, and what to write.
        why: String,
    },
    /// The signals cannot be caught, or the log not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Runs the container that this process is in, with `argv` as its arguments, until it ends or is told to
/// (SIGTERM). Returns the exit code.
///
/// # Errors
/// When a variable of the image's own is no good, or signals and standard output cannot be used.
pub async fn run(argv: Vec<String>, variables: Vec<(String, String)>) -> Result<u8, ProgramError> {
    let mut caught = Caught::new()?;
    let options = options(&variables)?;
    let log = Log::default();
    let client = entrypoint::command(&argv) == Command::Client;
    let spec = ContainerSpec {
        pod_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        pod_ip: own_address(),
        image: String::new(),
        argv,
        env: variables,
    };
    let lacking = if client { lacking(&capabilities()?, Path::new(TUN)) } else { None };
    let signals = Signals::default();
    let signals_of_it = signals.clone();
    let running = async {
        match lacking {
            Some(why) => fail(&Logger(log.clone()), tokio::time::Instant::now(), &why).await,
            None => Gluetun::new(options).run(spec, log.clone(), signals_of_it).await,
        }
    };
    let mut written = 0;
    let asked = async {
        caught.next().await;
        signals.term.cancel();
        caught.next().await;
        signals.kill.cancel();
        std::future::pending::<()>().await
    };
    let exit = tokio::select! {
        exit = running => exit,
        () = asked => return Ok(1),
        failed = print(&log, &mut written) => return Err(failed.into()),
        failed = hoard() => return Err(failed.into()),
    };
    write_from(&log, written)?;
    Ok(u8::try_from(exit.code).unwrap_or(1))
}

/// Reads the image's own variables.
fn options(variables: &[(String, String)]) -> Result<Options, ProgramError> {
    let text = |name: &str| {
        variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    let mut options = Options::default();
    if !text("LOOKALIKE_START").is_empty() {
        options.start = humantime::parse_duration(text("LOOKALIKE_START")).map_err(|error| {
            let why = format!("{error}; write a number with a unit, such as 800ms");
            ProgramError::Setting { name: "LOOKALIKE_START", why }
        })?;
    }
    options.hosts = text("LOOKALIKE_HOSTS")
        .split(',')
        .filter(|item| !item.is_empty())
        .map(|item| host(item).map_err(|why| ProgramError::Setting { name: "LOOKALIKE_HOSTS", why }))
        .collect::<Result<HashMap<_, _>, _>>()?;
    Ok(options)
}

/// `NAME=ADDRESS`, `NAME=ADDRESS:PORT` or `NAME:PORT=ADDRESS:PORT`, as [`Options::hosts`] has it: an address
/// without a port means any port.
///
/// # Errors
/// What is wrong with the text, and how to write it.
pub fn host(text: &str) -> Result<(String, SocketAddr), String> {
    const FORM: &str = "write NAME=ADDRESS, NAME=ADDRESS:PORT or NAME:PORT=ADDRESS:PORT, such as \
                        origin.test=127.0.0.1";
    let (name, address) = text.split_once('=').ok_or(FORM)?;
    let (label, port) = name.split_once(':').map_or((name, None), |(label, port)| (label, Some(port)));
    if label.is_empty() || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(format!("'{name}' is no name; {FORM}"));
    }
    let address = address
        .parse::<SocketAddr>()
        .or_else(|_| address.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0)))
        .map_err(|_| format!("'{address}' is no address; {FORM}"))?;
    Ok((name.to_ascii_lowercase(), address))
}

/// The pod's own address, by which it would send to the internet; unspecified where there is no way out.
fn own_address() -> IpAddr {
    let found = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect(ANYWHERE)?;
        socket.local_addr()
    });
    found.map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip())
}

/// The capabilities in force, as `/proc/self/status` has them.
fn capabilities() -> io::Result<String> {
    let mut status = String::new();
    File::open("/proc/self/status")?.read_to_string(&mut status)?;
    Ok(status)
}

/// What a container lacks that Gluetun ends without, in its words.
fn lacking(status: &str, tun: &Path) -> Option<String> {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default();
    if mask >> NET_ADMIN & 1 == 0 {
        return Some(
            "NET_ADMIN capability is missing: iptables-legacy: Permission denied (you must be root)"
                .to_owned(),
        );
    }
    let opened = OpenOptions::new().read(true).write(true).open(tun);
    let is_device = |file: File| file.metadata().map(|about| about.file_type().is_char_device());
    match opened.and_then(is_device) {
        Ok(true) => None,
        Ok(false) => Some(format!("checking tun device: {} is no device", tun.display())),
        Err(error) => Some(format!("creating tun device: {}: {error}", tun.display())),
    }
}

/// Writes the log to standard output, line by line, as it comes. `written` is how far it has got.
async fn print(log: &Log, written: &mut u64) -> io::Error {
    let mut news = log.written();
    loop {
        match write_from(log, *written) {
            Ok(position) => *written = position,
            Err(error) => return error,
        }
        // The log has a writer as long as it is borrowed here.
        if news.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn write_from(log: &Log, position: u64) -> io::Result<u64> {
    let (lines, next) = log.since(position);
    let mut out = io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    out.flush()?;
    Ok(next)
}

/// Waits for SIGUSR1, and then takes memory until the container's limit is reached.
async fn hoard() -> io::Error {
    let mut asked = match signal(SignalKind::user_defined1()) {
        Ok(asked) => asked,
        Err(error) => return error,
    };
    asked.recv().await;
    let mut taken = Vec::new();
    while taken.len() * MEMORY_STEP < MEMORY_MOST {
        // Not of zeroes, which would cost no memory.
        taken.push(vec![1_u8; MEMORY_STEP]);
        sleep(MEMORY_PAUSE).await;
    }
    io::Error::new(io::ErrorKind::OutOfMemory, "the container has no limit on its memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(mask: &str) -> String {
        format!("Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t{mask}\nCapBnd:\t000001ffffffffff\n")
    }

    #[test]
    fn it_ends_without_what_gluetun_needs() {
        let device = Path::new("/dev/null");
        assert_eq!(lacking(&status("0000000000001000"), device), None);
        for mask in ["0000000000000000", "0000000000002fff", "nonsense"] {
            let said = lacking(&status(mask), device).unwrap();
            assert!(said.starts_with("NET_ADMIN capability is missing"), "{mask}: {said}");
        }
        let here = std::env::temp_dir();
        for (tun, text) in [(Path::new("/dev/none"), "creating tun device"), (here.as_path(), "tun device")] {
            let said = lacking(&status("0000000000001000"), tun).unwrap();
            assert!(said.contains(text), "{said}");
        }
    }

    #[test]
    fn its_image_sets_how_it_starts_and_where_names_lead() {
        let variables = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let read = options(&variables(&[
            ("LOOKALIKE_START", "830ms"),
            ("LOOKALIKE_HOSTS", "origin.test=192.0.2.1,b.test:443=192.0.2.2:8443"),
        ]))
        .unwrap();
        assert_eq!((read.start, read.hosts.len()), (Duration::from_millis(830), 2));
        assert_eq!(read.hosts["b.test:443"], "192.0.2.2:8443".parse().unwrap());
        assert_eq!(options(&[]).unwrap().start, Options::default().start);
        for bad in [("LOOKALIKE_START", "fast"), ("LOOKALIKE_HOSTS", "origin.test")] {
            let error = options(&variables(&[bad])).unwrap_err().to_string();
            assert!(error.starts_with(bad.0) && error.contains("such as"), "{error}");
        }
    }

    #[test]
    fn hosts_are_names_with_an_address() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (text, name, to) in [
            ("origin.test=127.0.0.1", "origin.test", "127.0.0.1:0"),
            ("Origin.test=127.0.0.1:8443", "origin.test", "127.0.0.1:8443"),
            ("origin.test:443=127.0.0.1:8443", "origin.test:443", "127.0.0.1:8443"),
            ("six.test=[::1]:80", "six.test", "[::1]:80"),
        ] {
            assert_eq!(host(text), Ok((name.to_owned(), address(to))), "{text}");
        }
        for text in ["origin.test", "=127.0.0.1", ":80=127.0.0.1", "a:x=127.0.0.1", "a=b", "a=127.0.0.1:x"] {
            let error = host(text).unwrap_err();
            assert!(error.contains("such as origin.test=127.0.0.1"), "{text}: {error}");
        }
    }
}
