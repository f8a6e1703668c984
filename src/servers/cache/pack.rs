//! A list as bytes that fit into a ConfigMap, and back: gzip of the usable records, one JSON array. A
//! ConfigMap may hold 1 MiB; keys and addresses hardly compress, so 10 000 servers have some 0.9 MiB,
//! and a list that comes near the limit is kept without what only Gluetun needs.

use std::io::{self, Read as _, Write as _};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::CacheError;
use crate::servers::Catalogue;

/// Most bytes of a packed list: three quarters of what a ConfigMap may hold.
pub(super) const MOST: usize = 768 << 10;

/// Most bytes of an unpacked list: far above those of any real one, and little enough for memory.
const MOST_TEXT: u64 = 16 << 20;

/// Fields that the gateway itself has no use for, largest first.
const NEEDLESS: [&str; 2] = ["ips", "wgpubkey"];

/// Packs a list: whole where that fits, else without its largest fields.
pub(super) fn pack(list: &Catalogue) -> Result<Vec<u8>, CacheError> {
    let whole: Vec<&Map<String, Value>> = list.servers().iter().map(|server| &server.record).collect();
    let mut packed = compress(&whole)?;
    if packed.len() <= MOST {
        return Ok(packed);
    }
    let mut records: Vec<Map<String, Value>> = whole.into_iter().cloned().collect();
    for field in NEEDLESS {
        for record in &mut records {
            record.shift_remove(field);
            // A key is what else says that it is a WireGuard server.
            record.entry("vpn").or_insert_with(|| json!("wireguard"));
        }
        packed = compress(&records)?;
        if packed.len() <= MOST {
            return Ok(packed);
        }
    }
    Err(CacheError::TooLarge(packed.len()))
}

fn compress(records: &[impl Serialize]) -> Result<Vec<u8>, CacheError> {
    let spoilt = |error: io::Error| CacheError::Spoilt(error.to_string());
    // In one piece: the compressor's cost is by the write.
    let text = serde_json::to_vec(records).map_err(|error| spoilt(error.into()))?;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&text).map_err(spoilt)?;
    encoder.finish().map_err(spoilt)
}

/// Unpacks a list.
pub(super) fn unpack(packed: &[u8]) -> io::Result<String> {
    let mut text = String::new();
    let length = GzDecoder::new(packed).take(MOST_TEXT + 1).read_to_string(&mut text)?;
    if length as u64 > MOST_TEXT {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 16 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    /// As many servers as that, with keys and addresses as hard to compress as real ones.
    fn list(servers: usize, key_bytes: usize) -> Catalogue {
        let records: Vec<Value> = (0..servers)
            .map(|n| {
                let random: [u8; 12] = rand::random();
                let key: Vec<u8> = (0..key_bytes).map(|_| rand::random()).collect();
                json!({
                    "vpn": "wireguard", "country": format!("Country {}", n % 50),
                    "city": format!("City {}", n % 600), "isp": "M247", "owned": n % 3 == 0,
                    "hostname": format!("aa-bbb-wg-{n}"), "wgpubkey": STANDARD.encode(key),
                    "ips": [
                        format!("{}.{}.{}.{}", random[0], random[1], random[2], random[3]),
                        format!("2a03:1b20:{:x}{:x}:{:x}::{:x}", random[4], random[5], random[6], random[7]),
                    ],
                })
            })
            .collect();
        Catalogue::parse(&Value::Array(records).to_string()).unwrap()
    }

    #[test]
    fn a_list_comes_back_as_it_was() {
        let list = list(500, 32);
        let packed = pack(&list).unwrap();
        assert!(packed.len() < 64 << 10, "{}", packed.len());
        let back = Catalogue::parse(&unpack(&packed).unwrap()).unwrap();
        assert_eq!(back.servers(), list.servers());
    }

    #[test]
    fn ten_thousand_servers_stay_well_below_a_config_maps_limit() {
        let list = list(10_000, 32);
        let packed = pack(&list).unwrap();
        assert!(packed.len() <= MOST, "{}", packed.len());
        let back = Catalogue::parse(&unpack(&packed).unwrap()).unwrap();
        assert_eq!(back.len(), 10_000);
        assert!(back.servers().iter().zip(list.servers()).all(|(a, b)| a.key == b.key));
    }

    #[test]
    fn what_does_not_fit_goes_without_keys_or_not_at_all() {
        let large = list(2000, 1000);
        let back = Catalogue::parse(&unpack(&pack(&large).unwrap()).unwrap()).unwrap();
        assert_eq!(back.len(), 2000);
        assert!(back.servers().iter().all(|s| s.record.get("wgpubkey").is_none()));
        let record = |n: usize| {
            let noise: Vec<u8> = (0..1000).map(|_| rand::random()).collect();
            json!({"vpn": "wireguard", "country": "A", "hostname": format!("a-{n}"), "isp": STANDARD.encode(noise)})
        };
        let text = Value::Array((0..2000).map(record).collect()).to_string();
        assert!(matches!(pack(&Catalogue::parse(&text).unwrap()), Err(CacheError::TooLarge(_))));
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&vec![b' '; 17 << 20]).unwrap();
        let bomb = encoder.finish().unwrap();
        assert!(bomb.len() < 100 << 10);
        assert!(unpack(&bomb).unwrap_err().to_string().contains("16 MiB"));
        assert!(unpack(b"").is_err() && unpack(b"no gzip").is_err());
    }
}
