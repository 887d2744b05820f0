//! Values that have a notation of their own.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

/// What a period may look like; [`Period`] reads exactly this.
pub(crate) const PERIOD_PATTERN: &str = "^[0-9]{1,9}(ms|s|m|h)$";

/// A length of time in a manifest: a whole number and its unit, `500ms`, `3s`, `30m` or `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Period(Duration);

impl Period {
    /// So many milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// So many seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The duration that it stands for.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a number with its unit, such as 500ms, 3s, 30m or 1h");
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if digits > 9 {
            return Err(wrong());
        }
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        Ok(Self::from_millis(number * millis))
    }
}

impl TryFrom<String> for Period {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Period> for String {
    fn from(period: Period) -> Self {
        period.to_string()
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            0 => f.write_str("0s"),
            ms if ms % 3_600_000 == 0 => write!(f, "{}h", ms / 3_600_000),
            ms if ms % 60_000 == 0 => write!(f, "{}m", ms / 60_000),
            ms if ms % 1_000 == 0 => write!(f, "{}s", ms / 1_000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

impl JsonSchema for Period {
    fn schema_name() -> Cow<'static, str> {
        "Period".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": PERIOD_PATTERN })
    }
}

/// What an amount may look like: as in a pod, but for signs and exponents, with which nobody writes CPU or memory.
pub(crate) const QUANTITY_PATTERN: &str = "^[0-9]{1,15}([.][0-9]{1,9})?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$";

/// An amount of CPU or memory, as a pod writes it: `2`, `"0.5"`, `500m` or `256Mi`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "serde_json::Value", into = "String")]
pub struct Quantity(pub String);

impl From<serde_json::Value> for Quantity {
    fn from(value: serde_json::Value) -> Self {
        Self(text(value))
    }
}

impl From<Quantity> for String {
    fn from(quantity: Quantity) -> Self {
        quantity.0
    }
}

/// Labels or annotations. An object that was stored under an earlier schema may have a number or a truth value among them, which is taken as it
/// was written: one object that cannot be read would keep the operator from all others.
pub(crate) fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let all = BTreeMap::<String, serde_json::Value>::deserialize(from)?;
    Ok(all.into_iter().map(|(name, value)| (name, text(value))).collect())
}

fn text(value: serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true, "minimum": 0, "pattern": QUANTITY_PATTERN })
    }
}

/// Whether [`QUANTITY_PATTERN`] fits.
pub(crate) fn is_quantity(text: &str) -> bool {
    const UNITS: [&str; 14] = [
        "", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ];
    let is_number =
        |digits: &str, most| (1..=most).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    is_number(whole, 15) && is_number(part, 9) && UNITS.contains(&unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_object_of_an_earlier_schema_can_be_read() {
        let stored = serde_json::json!({
            "application": { "answer": {} },
            "dispatcher": { "service": { "annotations": { "weight": 3, "open": true } } },
            "containers": { "resources": { "limits": { "cpu": 0.5, "memory": "1Gi" } } },
        });
        let spec: crate::SipClusterSpec = serde_json::from_value(stored).expect("it is read");
        let annotations = &spec.dispatcher.service.annotations;
        assert_eq!(
            (annotations["weight"].as_str(), annotations["open"].as_str()),
            ("3", "true")
        );
        let limits = &spec.containers.resources.expect("they are there").limits;
        assert_eq!((limits["cpu"].0.as_str(), limits["memory"].0.as_str()), ("0.5", "1Gi"));
    }

    #[test]
    fn an_amount_is_read_as_its_pattern_says() {
        for text in ["0", "2", "0.5", "500m", "256Mi", "1.5Gi", "999999999999999E"] {
            assert!(is_quantity(text), "{text}");
        }
        for text in [
            "",
            "half",
            ".5",
            "5.",
            "1.2.3",
            "-1",
            "1e3",
            "2 Gi",
            "2gb",
            "9999999999999999",
            "\u{0663}",
        ] {
            assert!(!is_quantity(text), "{text}");
        }
    }

    #[test]
    fn period_is_read_and_written_alike() {
        for text in ["0s", "1ms", "500ms", "3s", "90s", "30m", "1h"] {
            let period: Period = text.parse().expect("a period");
            assert_eq!(period.to_string(), text);
        }
        assert_eq!("60s".parse::<Period>().map(|p| p.to_string()).as_deref(), Ok("1m"));
    }

    #[test]
    fn period_without_unit_is_refused() {
        for text in ["", "3", "s", "-1s", "1.5s", "3 s", "3d", "99999999999s", "\u{0663}s"] {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
    }
}
