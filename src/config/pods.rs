//! The settings of the VPN pods: image, provider, device, template, ports and keys. Read by `load`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use base64::Engine as _;

use super::TunDevice;
use super::reader::{Reader, quoted, split};
use crate::controller::template::{Template, TemplateError};
use crate::session::pod::{HEALTH_PORT, PROXY_PORT};

/// Bytes of a WireGuard key (a Curve25519 scalar).
const WIREGUARD_KEY: usize = 32;

pub(super) fn image(r: &mut Reader<'_>) -> Option<String> {
    const NAME: &str = "GLUETUN_IMAGE";
    let image = r.value(NAME)?;
    if image.contains(char::is_whitespace) || !image.is_ascii() {
        r.mistake(
            NAME,
            format!("{} is not an image's name", quoted(&image)),
            "write one such as qmcgaw/gluetun:v3.41.3",
        );
        return None;
    }
    Some(image)
}

pub(super) fn provider(r: &mut Reader<'_>) -> Option<String> {
    const NAME: &str = "VPN_SERVICE_PROVIDER";
    let provider = r.value(NAME)?;
    // "private internet access" and "vpn unlimited" are names of Gluetun's.
    if !provider.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b' ')) {
        r.mistake(
            NAME,
            format!("{} is not a provider's name", quoted(&provider)),
            "write it as Gluetun does, such as mullvad",
        );
        return None;
    }
    Some(provider.to_ascii_lowercase())
}

/// What the operator adds to the pods; `None` also after a mistake, which has been told.
pub(super) fn pod_template(r: &mut Reader<'_>) -> Option<Template> {
    const NAME: &str = "POD_TEMPLATE_FILE";
    let path = r.given(NAME)?;
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            r.mistake(NAME, format!("{}: {error}", quoted(&path)), "name a file with a pod template in YAML");
            return None;
        }
    };
    match Template::parse(&text) {
        Ok(template) => Some(template),
        Err(mistakes) => {
            for TemplateError { path: field, problem, fix } in mistakes {
                r.mistake(NAME, format!("{}: {field}: {problem}", quoted(&path)), fix);
            }
            None
        }
    }
}

pub(super) fn tun_device(r: &mut Reader<'_>) -> Option<TunDevice> {
    const NAME: &str = "TUN_DEVICE";
    let text = r.value(NAME)?;
    match text.to_ascii_lowercase().as_str() {
        "hostpath" => return Some(TunDevice::HostPath),
        "mknod" => return Some(TunDevice::Mknod),
        "none" => return Some(TunDevice::None),
        _ => {}
    }
    let is_name = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    if let Some((domain, name)) = text.split_once('/')
        && is_name(domain)
        && domain.contains('.')
        && is_name(name)
    {
        return Some(TunDevice::Resource(text));
    }
    r.mistake(
        NAME,
        format!("{} is not one of its values", quoted(&text)),
        "write hostPath, mknod, none or a device plugin's resource such as squat.ai/tun",
    );
    None
}

/// Ports, without those that are always open.
pub(super) fn ports(r: &mut Reader<'_>) -> Option<Vec<u16>> {
    const NAME: &str = "FIREWALL_INPUT_PORTS";
    let mut ports = BTreeSet::new();
    let mut good = true;
    for word in r.words(NAME) {
        match word.parse::<u16>() {
            Ok(port) if port > 0 => {
                ports.insert(port);
            }
            _ => {
                good = false;
                r.mistake(
                    NAME,
                    format!("{} is not a port", quoted(&word)),
                    "write ports from 1 to 65535, separated by commas",
                );
            }
        }
    }
    ports.remove(&PROXY_PORT);
    ports.remove(&HEALTH_PORT);
    good.then(|| ports.into_iter().collect())
}

pub(super) fn wireguard_key(r: &mut Reader<'_>) {
    const NAME: &str = "WIREGUARD_PRIVATE_KEY";
    let Some(key) = r.secret(NAME) else { return };
    let decoded = base64::engine::general_purpose::STANDARD.decode(key.expose());
    // Made a secret, so that the buffer is wiped.
    let length = decoded.ok().map(|bytes| {
        let length = bytes.len();
        drop(secrecy::SecretSlice::from(bytes));
        length
    });
    let fix = "write the key as `wg genkey` and the provider's page show it, 44 characters that end in =";
    match length {
        Some(WIREGUARD_KEY) => {}
        Some(n) => r.mistake(NAME, format!("is base64 of {n} bytes, and a key has {WIREGUARD_KEY}"), fix),
        None => r.mistake(NAME, "is not base64", fix),
    }
}

pub(super) fn wireguard_addresses(r: &mut Reader<'_>) {
    const NAME: &str = "WIREGUARD_ADDRESSES";
    let Some(addresses) = r.secret(NAME) else { return };
    let fix = "write addresses with prefix lengths, such as 10.64.0.2/32, separated by commas";
    for (n, word) in split(addresses.expose()).enumerate() {
        if !is_prefix(word) {
            r.mistake(NAME, format!("address {} has no prefix length, or is none", n + 1), fix);
        }
    }
    if split(addresses.expose()).next().is_none() {
        r.mistake(NAME, "holds no address", fix);
    }
}

/// Whether it is an address with a prefix length.
fn is_prefix(word: &str) -> bool {
    let Some((address, length)) = word.split_once('/') else { return false };
    let most = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.bytes().all(|b| b.is_ascii_digit()) && length.parse::<u8>().is_ok_and(|n| n <= most)
}
