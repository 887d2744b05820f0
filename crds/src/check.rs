//! A value against a structural schema, as the API server checks it, with remedies for people.

use serde_json::{Map, Value};

use crate::Problem;
use crate::sip_cluster::{EMERGENCY_PATTERN, HOST_PATTERN, REDIS_URL_PATTERN};
use crate::values::{PERIOD_PATTERN, QUANTITY_PATTERN, is_quantity};

/// What of `value`, which stands at `field`, the schema does not allow.
pub(crate) fn against_schema(field: &str, value: &Value, schema: &Value) -> Vec<Problem> {
    if value.is_null() {
        if schema["nullable"] == true {
            return Vec::new();
        }
        return vec![problem(field, value, "nothing stands here", remedy(schema))];
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let allowed: Vec<_> = allowed.iter().filter_map(Value::as_str).collect();
        let remedy = format!("write {}", allowed.join(" or "));
        return vec![problem(field, value, "this is not known", remedy)];
    }
    if schema["x-kubernetes-int-or-string"] == true {
        return int_or_string(field, value, schema).into_iter().collect();
    }
    match (schema["type"].as_str(), value) {
        (Some("object"), Value::Object(fields)) => object(field, fields, schema),
        (Some("array"), Value::Array(items)) => array(field, items, schema),
        (Some("string"), Value::String(text)) => string(field, text, value, schema).into_iter().collect(),
        (Some("integer"), Value::Number(number)) if number.is_i64() || number.is_u64() => {
            number_range(field, number.as_f64().unwrap_or(f64::NAN), value, schema)
                .into_iter()
                .collect()
        }
        (Some("boolean"), Value::Bool(_)) | (None, _) => Vec::new(),
        (Some(kind), _) => vec![problem(
            field,
            value,
            format!("a value of type {kind} belongs here"),
            remedy(schema),
        )],
    }
}

/// The problem of a field that the schema does not know.
pub(crate) fn unknown_field(path: &str, name: &str, known: &[&str]) -> Problem {
    let nearest = known
        .iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 3);
    Problem {
        field: path.into(),
        value: String::new(),
        wrong: "this field is not known".into(),
        remedy: match nearest {
            Some((_, candidate)) => format!("did you mean {candidate}?"),
            None => format!("leave it out; known here: {}", known.join(", ")),
        },
    }
}

fn object(field: &str, fields: &Map<String, Value>, schema: &Value) -> Vec<Problem> {
    let empty = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&empty);
    let known: Vec<&str> = properties.keys().map(String::as_str).collect();
    let mut problems = Vec::new();
    for (name, value) in fields {
        let path = format!("{field}.{name}");
        match properties.get(name) {
            // What is none of ours: an application's own words.
            None if schema["x-kubernetes-preserve-unknown-fields"] == true => {}
            None if schema["additionalProperties"].is_object() => {
                problems.extend(against_schema(&path, value, &schema["additionalProperties"]));
            }
            Some(schema) => problems.extend(against_schema(&path, value, schema)),
            None => problems.push(unknown_field(&path, name, &known)),
        }
    }
    let required = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    problems.extend(required.filter(|name| !fields.contains_key(*name)).map(|name| {
        problem(
            &format!("{field}.{name}"),
            &Value::Null,
            "it is missing",
            remedy(&properties[name]),
        )
    }));
    problems
}

fn array(field: &str, items: &[Value], schema: &Value) -> Vec<Problem> {
    let count = items.len() as u64;
    let least = schema["minItems"].as_u64().unwrap_or(0);
    let most = schema["maxItems"].as_u64().unwrap_or(u64::MAX);
    if count < least || count > most {
        let value = Value::Array(items.to_vec());
        let wrong = format!("{count} entries are too {}", if count < least { "few" } else { "many" });
        return vec![problem(
            field,
            &value,
            wrong,
            format!("write {least} to {most} of them"),
        )];
    }
    let entries = items.iter().enumerate();
    entries
        .flat_map(|(at, item)| against_schema(&format!("{field}[{at}]"), item, &schema["items"]))
        .collect()
}

/// Its numbers are not negative.
fn int_or_string(field: &str, value: &Value, schema: &Value) -> Option<Problem> {
    match value {
        Value::String(text) => string(field, text, value, schema),
        Value::Number(number) if number.is_u64() => None,
        _ => Some(problem(field, value, "it is no amount", remedy(schema))),
    }
}

fn string(field: &str, text: &str, value: &Value, schema: &Value) -> Option<Problem> {
    let fits = match (schema["format"].as_str(), schema["pattern"].as_str()) {
        (Some("ip"), _) => text.parse::<std::net::IpAddr>().is_ok(),
        (_, Some(PERIOD_PATTERN)) => text.parse::<crate::Period>().is_ok(),
        (_, Some(REDIS_URL_PATTERN)) => is_redis_url(text),
        (_, Some(EMERGENCY_PATTERN)) => is_emergency(text),
        (_, Some(QUANTITY_PATTERN)) => is_quantity(text),
        (_, Some(HOST_PATTERN)) => is_host(text),
        (_, Some(pattern)) => unreachable!("no reader for the pattern {pattern}"),
        (_, None) => {
            let length = text.chars().count() as u64;
            let bound = |name: &str| schema[name].as_u64();
            bound("minLength").is_none_or(|least| least <= length)
                && bound("maxLength").is_none_or(|most| length <= most)
        }
    };
    (!fits).then(|| problem(field, value, "it does not read like one", remedy(schema)))
}

fn number_range(field: &str, number: f64, value: &Value, schema: &Value) -> Option<Problem> {
    let least = schema["minimum"].as_f64().unwrap_or(f64::NEG_INFINITY);
    let most = schema["maximum"].as_f64().unwrap_or(f64::INFINITY);
    let wrong = match () {
        () if number < least => "this is too small",
        () if number > most => "this is too large",
        () => return None,
    };
    Some(problem(field, value, wrong, remedy(schema)))
}

/// `redis://`, an authority, no blank; or `redis-sentinel://`, authorities, `#` and the master's name; or `redis-cluster://` and authorities.
/// Each with `rediss`, too.
fn is_redis_url(text: &str) -> bool {
    let is_word = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
    match text.split_once("://") {
        Some(("redis-sentinel" | "rediss-sentinel", rest)) => rest
            .split_once('#')
            .is_some_and(|(sentinels, master)| is_word(sentinels) && is_word(master) && !master.contains('#')),
        Some(("redis-cluster" | "rediss-cluster", rest)) => is_word(rest) && !rest.contains(['#', '/']),
        Some(("redis", rest)) => is_word(rest),
        Some(("rediss", rest)) => is_word(rest) && !rest.contains('#'),
        _ => false,
    }
}

fn is_host(text: &str) -> bool {
    let is_small = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.iter().all(|b| is_small(*b) || *b == b'-')
            && bytes.first().is_some_and(|b| is_small(*b))
            && bytes.last().is_some_and(|b| is_small(*b))
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253 && text.split('.').all(is_label) && last.starts_with(|c: char| c.is_ascii_lowercase())
}

fn is_emergency(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+*._:-".contains(&byte))
}

/// What to write, by what the schema says of the field.
fn remedy(schema: &Value) -> String {
    if let Some(allowed) = schema["enum"].as_array() {
        let allowed: Vec<_> = allowed.iter().filter_map(Value::as_str).collect();
        return format!("write {}", allowed.join(" or "));
    }
    let range = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
    match (
        schema["type"].as_str(),
        schema["format"].as_str(),
        schema["pattern"].as_str(),
    ) {
        (_, Some("ip"), _) => "write an IP address such as 127.0.0.1 or ::1".into(),
        (_, _, Some(PERIOD_PATTERN)) => "write a whole number and its unit: 500ms, 3s, 30m or 1h".into(),
        (_, _, Some(REDIS_URL_PATTERN)) => {
            "write a URL such as redis://10.0.0.7:6379/0, redis-sentinel://10.0.0.7:26379,10.0.0.8:26379#MASTER \
             or redis-cluster://10.0.0.7:6379,10.0.0.8:6379; with rediss for TLS"
                .into()
        }
        (_, _, Some(EMERGENCY_PATTERN)) => {
            "write a number as it is dialled, in quotes, such as \"112\", or a service, such as urn:service:police"
                .into()
        }
        (_, _, Some(QUANTITY_PATTERN)) => "write an amount such as 2, 500m or 256Mi; with a point in quotes".into(),
        (_, _, Some(HOST_PATTERN)) => "write a host name in small letters, such as sip.example.com".into(),
        (Some("integer"), ..) => match range {
            (Some(least), Some(most)) => format!("write a whole number from {least} to {most}"),
            _ => "write a whole number".into(),
        },
        (Some("boolean"), ..) => "write true or false".into(),
        (Some("array"), ..) => "write a list".into(),
        (Some("object"), ..) => match schema["properties"].as_object() {
            Some(known) if !known.is_empty() => {
                format!(
                    "indent below it what it holds: {}",
                    known.keys().cloned().collect::<Vec<_>>().join(", ")
                )
            }
            _ => "write {}".into(),
        },
        _ => match (schema["minLength"].as_u64(), schema["maxLength"].as_u64()) {
            (Some(least), Some(most)) => format!("write a text of {least} to {most} characters"),
            _ => "write a text".into(),
        },
    }
}

fn problem(field: &str, value: &Value, wrong: impl Into<String>, remedy: String) -> Problem {
    let value = match value {
        Value::Null => String::new(),
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    };
    Problem {
        field: field.into(),
        value,
        wrong: wrong.into(),
        remedy,
    }
}

/// Levenshtein's distance, case ignored: how many letters to change, add or drop.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let change = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}
