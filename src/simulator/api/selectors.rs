//! Label and field selectors, with the syntax, operators and supported fields of the real API server.
//! A field that a real one does not select by is refused here too, so that nobody comes to rely on it.

use serde_json::Value;

use super::json::{at, map, text};
use super::resources::Kind;
use super::status::Failure;
use crate::kubernetes::names;

/// Which objects a list or watch is about.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldRequirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
    Greater(i64),
    Less(i64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldRequirement {
    path: Vec<&'static str>,
    value: String,
    equal: bool,
}

impl Selector {
    /// Reads the two query parameters of a list.
    pub(super) fn parse(kind: Kind, labels: &str, fields: &str) -> Result<Self, Failure> {
        Ok(Self { labels: parse_labels(labels)?, fields: parse_fields(kind, fields)? })
    }

    /// Whether it selects everything.
    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether an object (events in their core/v1 form) is selected.
    pub(super) fn matches(&self, object: &Value) -> bool {
        self.fields.iter().all(|field| field.matches(object)) && self.labels_match(object)
    }

    fn labels_match(&self, object: &Value) -> bool {
        if self.labels.is_empty() {
            return true;
        }
        let labels = map(object, &["metadata", "labels"]);
        let label = |key: &str| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
        self.labels.iter().all(|requirement| {
            let value = label(&requirement.key);
            match &requirement.operator {
                Operator::In(values) => value.is_some_and(|value| values.iter().any(|v| v == value)),
                Operator::NotIn(values) => !value.is_some_and(|value| values.iter().any(|v| v == value)),
                Operator::Exists => value.is_some(),
                Operator::Missing => value.is_none(),
                Operator::Greater(than) => number(value).is_some_and(|value| value > *than),
                Operator::Less(than) => number(value).is_some_and(|value| value < *than),
            }
        })
    }
}

fn number(value: Option<&str>) -> Option<i64> {
    value?.parse().ok()
}

impl FieldRequirement {
    fn matches(&self, object: &Value) -> bool {
        let found = match at(object, &self.path) {
            Some(Value::String(text)) => *text == self.value,
            Some(Value::Bool(value)) => value.to_string() == self.value,
            Some(Value::Number(value)) => value.to_string() == self.value,
            Some(_) => false,
            // `source` of events: whoever reported it, in the old field or the new one.
            None if self.path == ["source", "component"] => {
                text(object, &["reportingComponent"]) == self.value
            }
            None if self.path == ["spec", "hostNetwork"] || self.path == ["spec", "unschedulable"] => {
                self.value == "false"
            }
            None => self.value.is_empty(),
        };
        found == self.equal
    }
}

const METADATA: [(&str, &[&str]); 2] =
    [("metadata.name", &["metadata", "name"]), ("metadata.namespace", &["metadata", "namespace"])];

/// Fields that a real API server selects by, besides name and namespace, and where they are in the
/// stored object.
fn supported(kind: Kind) -> &'static [(&'static str, &'static [&'static str])] {
    match kind {
        Kind::Pod => &[
            ("spec.nodeName", &["spec", "nodeName"]),
            ("spec.restartPolicy", &["spec", "restartPolicy"]),
            ("spec.schedulerName", &["spec", "schedulerName"]),
            ("spec.serviceAccountName", &["spec", "serviceAccountName"]),
            ("spec.hostNetwork", &["spec", "hostNetwork"]),
            ("status.phase", &["status", "phase"]),
            ("status.podIP", &["status", "podIP"]),
            ("status.nominatedNodeName", &["status", "nominatedNodeName"]),
        ],
        Kind::Event => &[
            ("involvedObject.kind", &["involvedObject", "kind"]),
            ("involvedObject.namespace", &["involvedObject", "namespace"]),
            ("involvedObject.name", &["involvedObject", "name"]),
            ("involvedObject.uid", &["involvedObject", "uid"]),
            ("involvedObject.apiVersion", &["involvedObject", "apiVersion"]),
            ("involvedObject.resourceVersion", &["involvedObject", "resourceVersion"]),
            ("involvedObject.fieldPath", &["involvedObject", "fieldPath"]),
            ("reason", &["reason"]),
            ("reportingComponent", &["reportingComponent"]),
            ("source", &["source", "component"]),
            ("type", &["type"]),
        ],
        Kind::EventV1 => &[
            ("regarding.kind", &["involvedObject", "kind"]),
            ("regarding.namespace", &["involvedObject", "namespace"]),
            ("regarding.name", &["involvedObject", "name"]),
            ("regarding.uid", &["involvedObject", "uid"]),
            ("regarding.apiVersion", &["involvedObject", "apiVersion"]),
            ("regarding.resourceVersion", &["involvedObject", "resourceVersion"]),
            ("regarding.fieldPath", &["involvedObject", "fieldPath"]),
            ("reason", &["reason"]),
            ("reportingController", &["reportingComponent"]),
            ("type", &["type"]),
        ],
        Kind::Secret => &[("type", &["type"])],
        Kind::Namespace => &[("status.phase", &["status", "phase"])],
        Kind::Node => &[("spec.unschedulable", &["spec", "unschedulable"])],
        Kind::Job => &[("status.successful", &["status", "succeeded"])],
        Kind::ConfigMap | Kind::Lease => &[],
    }
}

fn parse_fields(kind: Kind, selector: &str) -> Result<Vec<FieldRequirement>, Failure> {
    let mut fields = Vec::new();
    for term in selector.split(',').filter(|term| !term.is_empty()) {
        let parsed = [("!=", false), ("==", true), ("=", true)]
            .into_iter()
            .find_map(|(sign, equal)| term.split_once(sign).map(|(field, value)| (field, value, equal)));
        let Some((field, value, equal)) = parsed else {
            let message = format!("invalid selector: '{selector}'; can't understand '{term}'");
            return Err(Failure::bad_request(message));
        };
        let path =
            METADATA.iter().chain(supported(kind)).find(|(name, _)| *name == field).map(|(_, path)| *path);
        let Some(path) = path else {
            let message = if supported(kind).is_empty() {
                format!(
                    "\"{field}\" is not a known field selector: only \"metadata.name\", \
                     \"metadata.namespace\""
                )
            } else {
                format!("field label not supported: {field}")
            };
            return Err(Failure::bad_request(message));
        };
        fields.push(FieldRequirement { path: path.to_vec(), value: unescape(value), equal });
    }
    Ok(fields)
}

/// Undoes the escapes of field selectors: `\,`, `\=` and `\\`.
fn unescape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => text.extend(chars.next()),
            char => text.push(char),
        }
    }
    text
}

fn parse_labels(selector: &str) -> Result<Vec<Requirement>, Failure> {
    let tokens = tokenize(selector);
    let mut parser = Parser { tokens: &tokens, at: 0 };
    parser.selector().map_err(|why| Failure::bad_request(format!("unable to parse requirement: {why}")))
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Sign(&'static str),
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Word(word) => word,
            Self::Sign(sign) => sign,
        }
    }
}

fn tokenize(text: &str) -> Vec<Token> {
    const SIGNS: [&str; 9] = ["!=", "==", "!", "=", "(", ")", ",", ">", "<"];
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return tokens;
        }
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            tokens.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
            continue;
        }
        let end =
            rest.find(|char: char| char.is_whitespace() || "!=(),><".contains(char)).unwrap_or(rest.len());
        tokens.push(Token::Word(rest[..end].to_owned()));
        rest = &rest[end..];
    }
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl Parser<'_> {
    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = self.tokens.get(self.at).is_some_and(|t| matches!(t, Token::Sign(s) if *s == sign));
        if found {
            self.at += 1;
        }
        found
    }

    fn expected(token: Option<&Token>, what: &str) -> String {
        format!("found '{}', expected: {what}", token.map_or("", Token::text))
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, String> {
        let mut all = Vec::new();
        if self.tokens.is_empty() {
            return Ok(all);
        }
        loop {
            all.push(self.requirement()?);
            match self.next() {
                None => return Ok(all),
                Some(Token::Sign(",")) => {}
                other => return Err(Self::expected(other.as_ref(), "',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let missing = self.take("!");
        let key = match self.next() {
            Some(Token::Word(key)) => key,
            other => return Err(Self::expected(other.as_ref(), "!, identifier, or 'end of string'")),
        };
        if let Some(why) = names::qualified(&key) {
            return Err(format!("key: Invalid value: \"{key}\": {why}"));
        }
        if missing {
            return Ok(Requirement { key, operator: Operator::Missing });
        }
        let operator = match self.tokens.get(self.at) {
            None | Some(Token::Sign(",")) => Operator::Exists,
            Some(_) => match self.next() {
                Some(Token::Sign("=" | "==")) => Operator::In(vec![self.value(&key)?]),
                Some(Token::Sign("!=")) => Operator::NotIn(vec![self.value(&key)?]),
                Some(Token::Sign(">")) => Operator::Greater(self.integer(&key)?),
                Some(Token::Sign("<")) => Operator::Less(self.integer(&key)?),
                Some(Token::Word(word)) if word == "in" => Operator::In(self.values(&key)?),
                Some(Token::Word(word)) if word == "notin" => Operator::NotIn(self.values(&key)?),
                other => return Err(Self::expected(other.as_ref(), "in, notin, =, ==, !=, gt, lt")),
            },
        };
        Ok(Requirement { key, operator })
    }

    fn value(&mut self, key: &str) -> Result<String, String> {
        match self.tokens.get(self.at) {
            None | Some(Token::Sign(",")) => Ok(String::new()),
            Some(Token::Word(word)) => {
                self.at += 1;
                check_value(key, 0, word)?;
                Ok(word.clone())
            }
            other => Err(Self::expected(other, "identifier")),
        }
    }

    fn integer(&mut self, key: &str) -> Result<i64, String> {
        let value = self.value(key)?;
        value.parse().map_err(|_| {
            format!(
                "values[0][{key}]: Invalid value: \"{value}\": for 'Gt', 'Lt' operators, the value must \
                     be an integer"
            )
        })
    }

    fn values(&mut self, key: &str) -> Result<Vec<String>, String> {
        if !self.take("(") {
            return Err(Self::expected(self.tokens.get(self.at), "'('"));
        }
        let mut values = Vec::new();
        loop {
            let value = self.value_in_list(key, values.len())?;
            values.push(value);
            match self.next() {
                Some(Token::Sign(")")) => return Ok(values),
                Some(Token::Sign(",")) => {}
                other => return Err(Self::expected(other.as_ref(), "',' or ')'")),
            }
        }
    }

    fn value_in_list(&mut self, key: &str, index: usize) -> Result<String, String> {
        match self.tokens.get(self.at) {
            Some(Token::Word(word)) => {
                self.at += 1;
                check_value(key, index, word)?;
                Ok(word.clone())
            }
            Some(Token::Sign("," | ")")) => Ok(String::new()),
            other => Err(Self::expected(other, "',', ')' or identifier")),
        }
    }
}

fn check_value(key: &str, index: usize, value: &str) -> Result<(), String> {
    match names::label_value(value) {
        Some(why) => Err(format!("values[{index}][{key}]: Invalid value: \"{value}\": {why}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels(selector: &str) -> Selector {
        Selector::parse(Kind::Pod, selector, "").unwrap()
    }

    fn object() -> Value {
        json!({"metadata": {"name": "p", "namespace": "ns", "labels": {"app": "x", "n": "5", "e": ""}},
               "spec": {"nodeName": "node"}, "status": {"phase": "Running"}})
    }

    #[test]
    fn every_label_operator() {
        let object = object();
        for yes in [
            "",
            "app",
            "app=x",
            "app==x",
            "app!=y",
            "other!=y",
            "!other",
            "app in (x,y)",
            "app in (x)",
            "app notin (y, z)",
            "other notin (y)",
            "n>4",
            "n<6",
            "app=x,n,!zz",
            " app = x , n > 1 ",
            "e=",
            "e in ()",
            "e",
        ] {
            assert!(labels(yes).matches(&object), "{yes}");
        }
        for no in [
            "app=y",
            "app!=x",
            "!app",
            "app in (y)",
            "app notin (x)",
            "n>5",
            "n<5",
            "other",
            "other=x",
            "app=x,other",
            "app>1",
            "app=",
            "other in (x)",
        ] {
            assert!(!labels(no).matches(&object), "{no}");
        }
        assert!(labels("").is_empty());
        assert!(!labels("a=b").matches(&json!({})));
    }

    #[test]
    fn bad_label_selectors_name_what_is_wrong() {
        let error = |selector: &str| Selector::parse(Kind::Pod, selector, "").unwrap_err().message;
        assert_eq!(
            error("a b"),
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"
        );
        assert!(error("a=-b-").contains("values[0][a]: Invalid value: \"-b-\": a valid label must be"));
        assert!(error("a in x").contains("expected: '('"));
        assert!(error("a in (x").contains("expected: ',' or ')'"));
        assert!(error("=x").contains("identifier"));
        assert!(error("a=x b").contains("',' or 'end of string'"));
        assert!(error("a>x").contains("must be an integer"));
        assert!(error("a,").contains("identifier"));
        assert!(error("a/b/c").contains("key: Invalid value"));
    }

    #[test]
    fn fields_select_by_value() {
        let select = |fields: &str| Selector::parse(Kind::Pod, "", fields).unwrap().matches(&object());
        assert!(select("metadata.name=p"));
        assert!(select("metadata.name==p,spec.nodeName=node,status.phase!=Failed"));
        assert!(!select("status.phase!=Running"));
        assert!(!select("spec.nodeName="));
        assert!(select("spec.hostNetwork=false"));
        assert!(select("status.podIP="));
    }

    #[test]
    fn fields_of_events_in_both_forms() {
        let event = json!({"involvedObject": {"name": "p"}, "reportingComponent": "rc", "type": "Normal"});
        let select = |kind, fields: &str| Selector::parse(kind, "", fields).unwrap().matches(&event);
        assert!(select(Kind::Event, "involvedObject.name=p,type=Normal,source=rc"));
        assert!(select(Kind::EventV1, "regarding.name=p,reportingController=rc"));
        assert!(Selector::parse(Kind::EventV1, "", "involvedObject.name=p").is_err());
    }

    #[test]
    fn unknown_fields_are_refused_as_by_the_real_one() {
        let error = |kind, fields: &str| Selector::parse(kind, "", fields).unwrap_err().message;
        assert_eq!(error(Kind::Pod, "spec.zz=1"), "field label not supported: spec.zz");
        assert_eq!(
            error(Kind::Lease, "spec.holderIdentity=1"),
            "\"spec.holderIdentity\" is not a known field selector: only \"metadata.name\", \
             \"metadata.namespace\""
        );
        assert_eq!(error(Kind::Pod, "zz"), "invalid selector: 'zz'; can't understand 'zz'");
    }
}
