//! Amounts as a person writes them: `16 GiB`, `300s`, `1.5` cores, a command as a list or as a line.

use std::{borrow::Cow, fmt, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Most words of a command.
pub const WORDS_MAX: usize = 1024;
/// Most bytes of a command, its environment, and each other text: a kernel refuses a single one from 128 KiB on.
pub const COMMAND_BYTES_MAX: usize = 64 * 1024;

/// A number of bytes: an integer, or text with a unit (`512 MiB`, `16GiB`, `2 GB`; binary units are powers of 1024).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

const BINARY: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
const DECIMAL: [(&str, u64); 4] = [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];

impl std::str::FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("`{text}` is no amount of memory: expected one like 512 MiB or 16 GiB");
        let text = text.trim();
        let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = text.split_at(at);
        let unit = match unit {
            "" | "B" => 1,
            // What docker, systemd and the JVM take.
            "k" | "K" => 1 << 10,
            "m" | "M" => 1 << 20,
            "g" | "G" => 1 << 30,
            "t" | "T" => 1 << 40,
            unit => BINARY
                .iter()
                .chain(&DECIMAL)
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                .map(|(_, bytes)| *bytes)
                .ok_or_else(form)?,
        };
        let number = number.trim();
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(unit).map(Bytes).ok_or_else(form);
        }
        let fraction: f64 = number.parse().map_err(|_| form())?;
        let bytes = fraction * unit as f64;
        // Above 2^53 a float no longer counts single bytes, and nobody has so much memory.
        if bytes.is_finite() && (0.0..9.0e15).contains(&bytes) { Ok(Bytes(bytes as u64)) } else { Err(form()) }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((name, unit)) = BINARY.iter().find(|(_, unit)| self.0 >= *unit) else {
            return write!(f, "{} bytes", self.0);
        };
        match self.0 % unit {
            0 => write!(f, "{} {name}", self.0 / unit),
            _ => write!(f, "{:.1} {name}", self.0 as f64 / *unit as f64),
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount of memory like \"16 GiB\"")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Bytes, E> {
                u64::try_from(bytes).map(Bytes).map_err(|_| E::custom("memory is not negative"))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                text.parse().map_err(E::custom)
            }
        }
        from.deserialize_any(Visitor)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(self.0)
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "bytes, or text with a unit like \"512 MiB\" or \"16 GiB\"",
            "type": ["integer", "string"], "minimum": 0, "examples": ["512 MiB", "16 GiB"]
        })
    }
}

/// A length of time: text like `300s` or `5m`, or whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time like \"300s\" or \"5m\"")
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Span, E> {
                Ok(Span(Duration::from_secs(seconds)))
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Span, E> {
                u64::try_from(seconds).map_err(|_| E::custom("a time is not negative")).and_then(|s| self.visit_u64(s))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                let words = |e| E::custom(format!("`{text}` is no time like \"300s\" or \"5m\": {e}"));
                humantime::parse_duration(text).map(Span).map_err(words)
            }
        }
        from.deserialize_any(Visitor)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(self.0))
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "a time like \"300s\" or \"5m\", or whole seconds",
            "type": ["string", "integer"], "minimum": 0, "examples": ["300s", "5m"]
        })
    }
}

/// A program and its arguments: a list, or a line that is split into words as a shell would, without a shell.
/// Never empty, and free of NUL bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Argv(Vec<String>);

impl Argv {
    /// Checks the words.
    ///
    /// # Errors
    /// There are none or too many, they are too long, or hold a NUL byte.
    pub fn new(words: Vec<String>) -> Result<Self, String> {
        if words.first().is_none_or(|program| program.trim().is_empty()) {
            return Err("the command is empty".to_owned());
        }
        if words.len() > WORDS_MAX || words.iter().map(String::len).sum::<usize>() > COMMAND_BYTES_MAX {
            return Err(format!("the command has more than {WORDS_MAX} words or {COMMAND_BYTES_MAX} bytes"));
        }
        if words.iter().any(|word| word.contains('\0')) {
            return Err("the command holds a NUL byte".to_owned());
        }
        Ok(Self(words))
    }

    /// Splits a line.
    ///
    /// # Errors
    /// An open quote, or what [`Argv::new`] refuses.
    pub fn split(line: &str) -> Result<Self, String> {
        let words = shlex::split(line).ok_or_else(|| format!("`{line}` has a quote that does not end"))?;
        Self::new(words)
    }

    /// The program, then its arguments.
    pub fn words(&self) -> &[String] {
        &self.0
    }

    /// The program.
    pub fn program(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }
}

impl fmt::Display for Argv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.0.iter().map(String::as_str).collect();
        // Fails for NUL bytes alone, which are refused above.
        f.write_str(&shlex::try_join(words).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Argv {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Argv;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a command: a list like [\"python3\", \"-m\", \"http.server\"], or one line")
            }

            fn visit_str<E: de::Error>(self, line: &str) -> Result<Argv, E> {
                Argv::split(line).map_err(E::custom)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Argv, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = list.next_element::<String>()? {
                    if words.len() == WORDS_MAX {
                        return Err(de::Error::custom(format!("the command has more than {WORDS_MAX} words")));
                    }
                    words.push(word);
                }
                Argv::new(words).map_err(de::Error::custom)
            }
        }
        from.deserialize_any(Visitor)
    }
}

impl JsonSchema for Argv {
    fn schema_name() -> Cow<'static, str> {
        "Command".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "a program and its arguments as a list, or as one line that is split into words without a shell",
            "anyOf": [
                { "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": WORDS_MAX },
                { "type": "string", "minLength": 1 }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_people_write_it() {
        for (text, bytes) in [
            ("1", 1),
            ("512 MiB", 512 << 20),
            ("16GiB", 16 << 30),
            ("16g", 16 << 30),
            ("1.5 GiB", 3 << 29),
            ("2 GB", 2_000_000_000),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "GiB", "-1", "1 XB", "1e400", "NaN", "99999999999 TiB", "1 GiB GiB", "inf GiB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        assert_eq!(Bytes(16 << 30).to_string(), "16 GiB");
        assert_eq!(Bytes(3 << 29).to_string(), "1.5 GiB");
        assert_eq!(Bytes(10).to_string(), "10 bytes");
    }

    #[test]
    fn a_line_is_split_without_a_shell() {
        let argv = |line: &str| Argv::split(line).map(|a| a.words().to_vec());
        assert_eq!(argv("a 'b c' d\\ e \"$HOME\""), Ok(["a", "b c", "d e", "$HOME"].map(String::from).to_vec()));
        assert!(argv("a 'b").unwrap_err().contains("quote"));
        for bad in ["", "  ", "''", "a \0"] {
            assert!(argv(bad).is_err(), "{bad:?}");
        }
        let from = |text: &str| serde_json::from_str::<Argv>(text);
        assert_eq!(from(r#"["sh", "-c", "x y"]"#).unwrap().to_string(), "sh -c 'x y'");
        assert_eq!(from(r#""sh -c 'x y'""#).unwrap(), from(r#"["sh", "-c", "x y"]"#).unwrap());
        for bad in ["[]", "3", "[3]", "\"\""] {
            assert!(from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_text_or_seconds() {
        let from = |text: &str| serde_json::from_str::<Span>(text);
        assert_eq!(from("300").unwrap(), from("\"5m\"").unwrap());
        for bad in ["-1", "\"soon\"", "1.5", "null"] {
            assert!(from(bad).is_err(), "{bad}");
        }
        assert_eq!(serde_json::to_string(&Span(Duration::from_secs(90))).unwrap(), "\"1m 30s\"");
    }
}
