//! Names, label keys and label values: the rules of `k8s.io/apimachinery/pkg/util/validation`, and the
//! texts that it answers. Each function returns what is wrong, or nothing.

/// Longest name of an object (RFC 1123 subdomain).
const SUBDOMAIN: usize = 253;
/// Longest label of a DNS name, and longest label value.
const LABEL: usize = 63;

const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or \
    '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used \
    for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
    characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', \
    regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const VALUE_TEXT: &str = "a valid label must be an empty string or consist of alphanumeric characters, \
    '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or \
    'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const NAME_PART_TEXT: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must \
    start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used \
    for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const CONFIG_KEY_TEXT: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' \
    (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}

fn is_label(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    edge(name.chars().next())
        && edge(name.chars().next_back())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

fn is_name_part(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    edge(name.chars().next())
        && edge(name.chars().next_back())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// An RFC 1123 label, such as a container's or a namespace's name.
#[must_use]
pub fn label(name: &str) -> Option<String> {
    if name.len() > LABEL {
        return Some(too_long(LABEL));
    }
    (!is_label(name)).then(|| LABEL_TEXT.into())
}

/// An RFC 1123 subdomain, such as most objects' names.
#[must_use]
pub fn subdomain(name: &str) -> Option<String> {
    if name.len() > SUBDOMAIN {
        return Some(too_long(SUBDOMAIN));
    }
    (!name.split('.').all(is_label)).then(|| SUBDOMAIN_TEXT.into())
}

/// The key of a label or annotation: an optional subdomain, a slash, a name.
#[must_use]
pub fn qualified(key: &str) -> Option<String> {
    let name = match key.split_once('/') {
        None => key,
        Some(("", _)) => return Some("prefix part must be non-empty".into()),
        Some((prefix, name)) => {
            if name.contains('/') {
                return Some(format!(
                    "a valid label key must consist of alphanumeric characters with an optional DNS \
                     subdomain prefix and '/' (e.g. 'example.com/MyName'): {NAME_PART_TEXT}"
                ));
            }
            if let Some(why) = subdomain(prefix) {
                return Some(format!("prefix part {why}"));
            }
            name
        }
    };
    if name.is_empty() {
        return Some("name part must be non-empty".into());
    }
    if name.len() > LABEL {
        return Some(format!("name part {}", too_long(LABEL)));
    }
    (!is_name_part(name)).then(|| NAME_PART_TEXT.into())
}

/// A label's value.
#[must_use]
pub fn label_value(value: &str) -> Option<String> {
    if value.len() > LABEL {
        return Some(too_long(LABEL));
    }
    (!value.is_empty() && !is_name_part(value)).then(|| VALUE_TEXT.into())
}

/// A key of a ConfigMap or Secret.
#[must_use]
pub fn config_key(key: &str) -> Option<String> {
    if key.len() > SUBDOMAIN {
        return Some(too_long(SUBDOMAIN));
    }
    if key == "." || key == ".." {
        return Some(format!("must not be '{key}'"));
    }
    let valid = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    (!valid).then(|| CONFIG_KEY_TEXT.into())
}

/// The name of an environment variable.
#[must_use]
pub fn env_name(name: &str) -> Option<String> {
    let valid = name.chars().all(|c| (' '..='~').contains(&c) && c != '=');
    (!valid).then(|| {
        "a valid environment variable name must consist only of printable ASCII characters other than '='"
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains() {
        for good in ["a", "a-b", "9", &"x".repeat(63)] {
            assert_eq!(label(good), None, "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", &"x".repeat(64)] {
            assert!(label(bad).is_some(), "{bad}");
        }
        assert_eq!(subdomain("gw-abc.def"), None);
        for bad in ["", ".", "a..b", "a.", "Bad_Name", &"x".repeat(254)] {
            assert!(subdomain(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn keys_and_values() {
        for good in ["a", "a/b", "example.com/My_name.x", "app.kubernetes.io/name"] {
            assert_eq!(qualified(good), None, "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "A.b/c", "a b", "-a", &format!("a/{}", "x".repeat(64))] {
            assert!(qualified(bad).is_some(), "{bad}");
        }
        for good in ["", "x", "My-value_1.2", &"x".repeat(63)] {
            assert_eq!(label_value(good), None, "{good}");
        }
        for bad in ["-x", "x-", "a b", "Malmö", &"x".repeat(64)] {
            assert!(label_value(bad).is_some(), "{bad}");
        }
        assert_eq!(config_key(".htpasswd"), None);
        for bad in ["", "a b", "..", "."] {
            assert!(config_key(bad).is_some(), "{bad}");
        }
        assert!(env_name("A=B").is_some() && env_name("my.VAR-1").is_none());
    }
}
