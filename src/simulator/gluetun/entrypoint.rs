//! What `/gluetun-entrypoint` does by its arguments: the VPN client, or `format-servers`.

use super::servers::{Server, ServerList};

/// What a container's argument vector asks of the image.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// No arguments: the VPN client.
    Client,
    /// `format-servers` with its flags.
    FormatServers(Vec<String>),
    /// A subcommand that the entrypoint does not have.
    Unknown(String),
    /// A program that the image does not have.
    Missing(String),
}

/// Reads an argument vector, with or without the entrypoint's own path in front.
pub(super) fn command(argv: &[String]) -> Command {
    let args = match argv.split_first() {
        Some((program, rest)) if program.rsplit('/').next() == Some("gluetun-entrypoint") => rest,
        Some((program, _)) if program.starts_with('/') => return Command::Missing(program.clone()),
        Some(_) | None => argv,
    };
    match args.split_first() {
        None => Command::Client,
        Some((name, flags)) if name == "format-servers" => Command::FormatServers(flags.to_vec()),
        Some((name, _)) => Command::Unknown(name.clone()),
    }
}

/// What a subcommand printed, and its exit code.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Printed {
    pub(super) lines: Vec<String>,
    pub(super) code: i32,
}

impl Printed {
    pub(super) fn of(text: &str, code: i32) -> Self {
        Self { lines: text.lines().map(str::to_owned).collect(), code }
    }

    fn failed(error: impl Into<String>) -> Self {
        Self { lines: vec![error.into()], code: 1 }
    }
}

/// Providers that have a flag of their own (`internal/constants/providers` of Gluetun).
pub(super) const PROVIDERS: [&str; 23] = [
    "airvpn",
    "cyberghost",
    "expressvpn",
    "fastestvpn",
    "giganews",
    "hidemyass",
    "ipvanish",
    "ivpn",
    "mullvad",
    "nordvpn",
    "perfect privacy",
    "privado",
    "private internet access",
    "privatevpn",
    "protonvpn",
    "purevpn",
    "slickvpn",
    "surfshark",
    "torguard",
    "vpn unlimited",
    "vpnsecure",
    "vyprvpn",
    "windscribe",
];

/// `format-servers`, with flags as Go's `flag` package reads them: `-f v`, `--f v`, `-f=v`. A wrong
/// one prints the usage and exits 2.
pub(super) fn format_servers(flags: &[String], list: &ServerList) -> Printed {
    let (mut format, mut output) = ("markdown".to_owned(), "/dev/stdout".to_owned());
    let mut providers = Vec::new();
    let mut flags = flags.iter();
    while let Some(flag) = flags.next() {
        let Some(name) = flag.strip_prefix("--").or_else(|| flag.strip_prefix('-')).filter(|f| !f.is_empty())
        else {
            break; // Go stops at the first argument that is not a flag.
        };
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        match name {
            "format" | "output" => match value.or_else(|| flags.next().cloned()) {
                Some(value) if name == "format" => format = value,
                Some(value) => output = value,
                None => return usage(&format!("flag needs an argument: -{name}")),
            },
            "h" | "help" => return Printed { code: 0, ..usage("") },
            provider if PROVIDERS.iter().any(|known| known.replace(' ', "-") == provider) => {
                match value.as_deref() {
                    None | Some("true" | "1") => providers.push(provider.to_owned()),
                    Some("false" | "0") => {}
                    Some(bad) => {
                        return usage(&format!("invalid boolean value {bad:?} for -{provider}: parse error"));
                    }
                }
            }
            unknown => return usage(&format!("flag provided but not defined: -{unknown}")),
        }
    }
    let provider = match providers.as_slice() {
        [provider] => provider.as_str(),
        [] => return Printed::failed("ERROR VPN provider to format was not specified"),
        [..] => return Printed::failed("ERROR more than one VPN provider to format were specified"),
    };
    // The look-alike's list is Mullvad's; of the others it has no servers.
    let empty = ServerList::default();
    let list = if provider == "mullvad" { list } else { &empty };
    let text = match format.as_str() {
        "json" => match list.to_json() {
            Ok(text) => text,
            Err(error) => return Printed::failed(format!("ERROR {error}")),
        },
        "markdown" => markdown(list.servers()),
        other => return Printed::failed(format!("ERROR format is not recognized: {other}")),
    };
    // A file would lie in the container's own file system, which the look-alike does not have.
    let lines = match output.as_str() {
        "/dev/stdout" | "/dev/stderr" => text.lines().map(str::to_owned).collect(),
        _file => Vec::new(),
    };
    Printed { lines, code: 0 }
}

/// Go's answer to a flag that it does not know: the error, then every flag.
fn usage(error: &str) -> Printed {
    let mut lines: Vec<String> = Vec::new();
    if !error.is_empty() {
        lines.push(error.to_owned());
    }
    lines.push("Usage of format-servers:".to_owned());
    for provider in PROVIDERS {
        lines.push(format!("  -{}", provider.replace(' ', "-")));
        lines.push(format!("    \tFormat servers for {provider}"));
    }
    lines.push("  -format string".to_owned());
    lines.push("    \tFormat to use which can be: 'markdown' or 'json' (default \"markdown\")".to_owned());
    lines.push("  -output string".to_owned());
    lines.push("    \tOutput file to write the formatted data to (default \"/dev/stdout\")".to_owned());
    Printed { lines, code: 2 }
}

fn markdown(servers: &[Server]) -> String {
    let mut text =
        "| Country | City | Hostname | Owned | VPN |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for Server { country, city, hostname, owned, vpn, .. } in servers {
        let owned = if *owned { "✅" } else { "❌" };
        text.push_str(&format!("| {country} | {city} | `{hostname}` | {owned} | {vpn} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_entrypoint_may_be_named_or_not() {
        assert_eq!(command(&[]), Command::Client);
        assert_eq!(command(&words("/gluetun-entrypoint")), Command::Client);
        let flags = words("-mullvad -format json");
        for line in [
            "/gluetun-entrypoint format-servers -mullvad -format json",
            "format-servers -mullvad -format json",
        ] {
            assert_eq!(command(&words(line)), Command::FormatServers(flags.clone()), "{line}");
        }
        assert_eq!(command(&words("nonsense")), Command::Unknown("nonsense".into()));
        assert_eq!(command(&words("/bin/sh -c true")), Command::Missing("/bin/sh".into()));
    }

    #[test]
    fn prints_the_list_in_each_spelling_of_the_flags() {
        let list = ServerList::builtin();
        let json = list.to_json().unwrap();
        for flags in [
            "-mullvad -format json",
            "--mullvad --format=json",
            "-format json -mullvad=true -output /dev/stderr",
            "-mullvad -nordvpn=false -format json",
        ] {
            let printed = format_servers(&words(flags), &list);
            assert_eq!((printed.code, printed.lines.join("\n")), (0, json.clone()), "{flags}");
        }
        assert_eq!(format_servers(&words("-nordvpn -format json"), &list).lines, ["[]"]);
        assert!(format_servers(&words("-mullvad -format json -output /tmp/x"), &list).lines.is_empty());
        assert!(format_servers(&words("-mullvad"), &list).lines[0].starts_with("| Country |"));
    }

    #[test]
    fn wrong_flags_print_the_usage_and_exit_2_and_wrong_values_exit_1() {
        let list = ServerList::builtin();
        for (flags, first) in [
            ("-mulvad -format json", "flag provided but not defined: -mulvad"),
            ("-mullvad -format", "flag needs an argument: -format"),
            ("-mullvad=x", "invalid boolean value \"x\" for -mullvad: parse error"),
        ] {
            let printed = format_servers(&words(flags), &list);
            assert_eq!(
                (printed.code, printed.lines[0].as_str(), printed.lines[1].as_str()),
                (2, first, "Usage of format-servers:")
            );
        }
        for flags in ["", "-format json", "-mullvad -nordvpn", "-mullvad -format xml"] {
            let printed = format_servers(&words(flags), &list);
            assert_eq!(printed.code, 1, "{flags}");
            assert!(printed.lines[0].starts_with("ERROR "), "{flags}");
        }
    }
}
