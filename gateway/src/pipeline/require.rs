//! `X-Paceline-Require`: what a worker must be or have to get a request. A list of terms that must all hold:
//!
//! ```text
//! gpu, !edge, vram>=16GiB, site!=edge, rack=7, model=llama3
//! ```
//!
//! `NAME` holds where the worker has it, `!NAME` where it has not, `NAME=VALUE` and `NAME!=VALUE` compare texts (without
//! regard to case) or equal numbers, `>=`, `<=`, `>`, `<` numbers. A number may bear a unit of bytes. A NAME is one of
//! `site`, `type`, `tier`, `worker`, `version`, `kind`, `model`, else a label of the service, a label of the worker, or a
//! capability, in this order; `gpu`, `cpu` and `edge` hold by the worker's type too.

use std::{cmp::Ordering, fmt};

use paceline_proto::{manifest::WorkerType, view::Provider};

/// Most bytes of an expression.
pub(crate) const BYTES_MAX: usize = 512;
/// Most terms of an expression.
const TERMS_MAX: usize = 16;
/// Most bytes of a name or a value.
const WORD_MAX: usize = 128;
/// Memory is sold rounded up: a card of 16 GiB shows a part less. At least this share of it counts as it.
const AS_SOLD: f64 = 15.0 / 16.0;

/// What is wrong with an expression, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Byte of the expression, from 1.
    pub(crate) at: usize,
    pub(crate) what: &'static str,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at character {}: {}", self.at, self.what)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Has,
    HasNot,
    Equal,
    Unequal,
    AtLeast,
    AtMost,
    More,
    Less,
}

#[derive(Clone, Debug, PartialEq)]
struct Term<'a> {
    name: &'a str,
    op: Op,
    value: &'a str,
}

/// An expression, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Require<'a>(Vec<Term<'a>>);

/// In the order in which they are tried: the longer first.
const OPERATORS: [(&str, Op); 6] =
    [(">=", Op::AtLeast), ("<=", Op::AtMost), ("!=", Op::Unequal), ("=", Op::Equal), (">", Op::More), ("<", Op::Less)];

impl<'a> Require<'a> {
    /// Reads an expression.
    ///
    /// # Errors
    /// The first fault.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Wrong> {
        if text.len() > BYTES_MAX {
            return Err(Wrong { at: BYTES_MAX + 1, what: "the expression is longer than 512 bytes" });
        }
        let mut terms = Vec::new();
        let mut begin = 0;
        for part in text.split(',') {
            if terms.len() >= TERMS_MAX {
                return Err(Wrong { at: begin + 1, what: "more than 16 terms" });
            }
            terms.push(term(part).map_err(|wrong| Wrong { at: begin + wrong.at, ..wrong })?);
            begin += part.len() + 1;
        }
        Ok(Self(terms))
    }

    /// Whether a worker with this offer will do.
    pub(crate) fn fits(&self, provider: &Provider) -> bool {
        self.0.iter().all(|term| term.holds(provider))
    }
}

fn term(part: &str) -> Result<Term<'_>, Wrong> {
    let wrong = |at: usize, what| Err(Wrong { at: at + 1, what });
    let lead = part.len() - part.trim_start().len();
    let text = part.trim();
    if text.is_empty() {
        return wrong(lead, "a term is missing");
    }
    if let Some(name) = text.strip_prefix('!') {
        let name = name.trim_start();
        let at = lead + text.len() - name.len();
        if let Some(end) = name.find(|c| !of_name(c)) {
            return wrong(at + end, "only a name may follow `!`");
        }
        return match name.len() {
            0 => wrong(at, "a name is missing"),
            n if n > WORD_MAX => wrong(at, "a name is longer than 128 bytes"),
            _ => Ok(Term { name, op: Op::HasNot, value: "" }),
        };
    }
    let end = text.find(|c| !of_name(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if name.is_empty() {
        return wrong(lead, "a name is missing");
    }
    if name.len() > WORD_MAX {
        return wrong(lead, "a name is longer than 128 bytes");
    }
    let after = rest.trim_start();
    let at = lead + text.len() - after.len();
    if after.is_empty() {
        return Ok(Term { name, op: Op::Has, value: "" });
    }
    let Some((sign, op)) = OPERATORS.into_iter().find(|(sign, _)| after.starts_with(sign)) else {
        return wrong(at, "expected one of = != >= <= > <, or a comma");
    };
    let value = after[sign.len()..].trim_start();
    let at = lead + text.len() - value.len();
    if value.is_empty() {
        return wrong(at, "a value is missing");
    }
    if value.len() > WORD_MAX {
        return wrong(at, "a value is longer than 128 bytes");
    }
    if let Some(odd) = value.find(|c: char| c.is_control() || "=<>!".contains(c)) {
        return wrong(at + odd, "a value may not hold this");
    }
    if !matches!(op, Op::Equal | Op::Unequal) && number(value).is_none() {
        return wrong(at, "expected a number, with or without a unit like GiB");
    }
    Ok(Term { name, op, value })
}

fn of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-./".contains(c)
}

impl Term<'_> {
    fn holds(&self, provider: &Provider) -> bool {
        match self.op {
            Op::Has => has(provider, self.name),
            Op::HasNot => !has(provider, self.name),
            Op::Equal => self.equals(provider),
            Op::Unequal => !self.equals(provider),
            op => {
                let Some((want, unit)) = number(self.value) else { return false };
                let have = with_value(provider, self.name, number).flatten();
                let Some((have, _)) = have else { return false };
                let want = if unit && op == Op::AtLeast { want * AS_SOLD } else { want };
                matches!(
                    (op, have.partial_cmp(&want)),
                    (Op::AtLeast, Some(Ordering::Greater | Ordering::Equal))
                        | (Op::AtMost, Some(Ordering::Less | Ordering::Equal))
                        | (Op::More, Some(Ordering::Greater))
                        | (Op::Less, Some(Ordering::Less))
                )
            }
        }
    }

    fn equals(&self, provider: &Provider) -> bool {
        if self.name == "model" {
            return provider.service.models.iter().any(|model| model.eq_ignore_ascii_case(self.value));
        }
        let same = |text: &str| {
            text.eq_ignore_ascii_case(self.value)
                || number(text).is_some_and(|have| number(self.value).is_some_and(|want| have.0 == want.0))
        };
        with_value(provider, self.name, same).unwrap_or(false)
    }
}

/// Whether a worker has it: a capability, its type, or a label that does not say no.
fn has(provider: &Provider, name: &str) -> bool {
    let of_type = [("gpu", WorkerType::Gpu), ("cpu", WorkerType::Cpu), ("edge", WorkerType::Edge)];
    if of_type.contains(&(name, provider.member.manifest.worker_type)) {
        return true;
    }
    let says_yes = |text: &str| !["", "0", "false", "no", "none"].iter().any(|no| text.eq_ignore_ascii_case(no));
    with_value(provider, name, says_yes).unwrap_or(false)
}

/// Looks at what a worker says of a name; `None` where it says nothing.
fn with_value<T>(provider: &Provider, name: &str, look: impl FnOnce(&str) -> T) -> Option<T> {
    let (manifest, service) = (&provider.member.manifest, &provider.service);
    Some(match name {
        "site" => look(manifest.site.as_str()),
        "worker" => look(provider.member.name.as_str()),
        "type" => look(match manifest.worker_type {
            WorkerType::Gpu => "gpu",
            WorkerType::Cpu => "cpu",
            WorkerType::Edge => "edge",
        }),
        "tier" => look(&manifest.worker_type.tier().to_string()),
        "kind" => look(match service.kind {
            paceline_proto::manifest::ServiceKind::Http => "http",
            paceline_proto::manifest::ServiceKind::OpenAi => "openai",
        }),
        "version" => look(service.version.as_deref()?),
        name => match service.labels.get(name).or_else(|| manifest.labels.get(name)) {
            Some(text) => look(text),
            None => look(if *manifest.capabilities.get(name)? { "true" } else { "false" }),
        },
    })
}

/// A number, and whether it bears a unit of bytes.
fn number(text: &str) -> Option<(f64, bool)> {
    const UNITS: [(&str, f64); 8] = [
        ("kib", 1024.0),
        ("mib", 1_048_576.0),
        ("gib", 1_073_741_824.0),
        ("tib", 1_099_511_627_776.0),
        ("kb", 1e3),
        ("mb", 1e6),
        ("gb", 1e9),
        ("tb", 1e12),
    ];
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && !".-+".contains(c)).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let value: f64 = digits.parse().ok()?;
    let unit = unit.trim();
    if unit.is_empty() {
        return Some((value, false));
    }
    let times = UNITS.iter().find(|(name, _)| unit.eq_ignore_ascii_case(name))?.1;
    Some((value * times, true))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::view;
    use paceline_proto::{id::Site, manifest::Health, view::Member};

    fn provider() -> Provider {
        let view = view(|v| {
            v.offer(1, "llm", Health::Healthy);
        });
        let given = &view.services["llm"][0];
        let mut manifest = (*given.member.manifest).clone();
        manifest.site = Site::new("berlin").expect("site");
        manifest.worker_type = WorkerType::Gpu;
        for (key, value) in [("rack", "7"), ("vram", "15.7 GiB"), ("spot", "no"), ("zone", "a")] {
            manifest.labels.insert(key.into(), value.into());
        }
        manifest.capabilities = [("docker".to_owned(), true), ("tpu".to_owned(), false)].into();
        let mut service = given.service.clone();
        service.labels.insert("zone".into(), "b".into());
        service.models = vec!["llama3:8b".into()];
        service.version = Some("1.2".into());
        let member = Member { manifest: Arc::new(manifest), ..(*given.member).clone() };
        Provider { node: given.node, member: Arc::new(member), service }
    }

    #[test]
    fn terms_are_judged_by_what_a_worker_says() {
        let provider = provider();
        for (text, fits) in [
            ("gpu", true),
            ("!gpu", false),
            ("edge", false),
            ("docker", true),
            ("tpu", false),
            ("!tpu , !never-heard-of", true),
            ("spot", false),
            ("rack", true),
            ("vram>=16GiB", true),
            ("vram >= 16 GB", true),
            ("vram>=24GiB", false),
            ("vram>16GiB", false),
            ("vram<16GiB", true),
            ("ram>=1", false),
            ("ram<1", false),
            ("site=Berlin", true),
            ("site!=edge", true),
            ("site!=berlin", false),
            ("type=gpu, tier=1, tier<=1", true),
            ("rack=7.0", true),
            ("rack>6, rack<8", true),
            ("zone=b", true),
            ("zone=a", false),
            ("model=llama3:8b", true),
            ("model=llama3", false),
            ("model!=mistral", true),
            ("version=1.2", true),
            ("worker=w1", true),
            ("kind=http", true),
            ("gpu, docker, vram>=16GiB, site!=edge", true),
            ("gpu, docker, rack=8", false),
        ] {
            assert_eq!(Require::parse(text).expect(text).fits(&provider), fits, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let long = "x".repeat(BYTES_MAX + 1);
        let many = vec!["a"; TERMS_MAX + 1].join(",");
        let wide = format!("a, b={}", "x".repeat(WORD_MAX + 1));
        for (text, at, what) in [
            ("", 1, "missing"),
            ("gpu,", 5, "missing"),
            ("gpu, ,a", 6, "missing"),
            ("gpu, vram>=", 12, "a value is missing"),
            ("vram>=lots", 7, "a number"),
            ("vram>=16Gib,x>=1furlong", 16, "a number"),
            ("a b", 3, "expected one of"),
            (" =b", 2, "a name is missing"),
            ("! ", 2, "a name is missing"),
            ("!a=b", 3, "only a name"),
            ("a==b", 3, "may not hold"),
            ("a=b=c", 4, "may not hold"),
            ("a=\u{7}", 3, "may not hold"),
            ("é", 1, "a name is missing"),
            (&long, BYTES_MAX + 1, "longer than 512"),
            (&many, 2 * TERMS_MAX + 1, "16 terms"),
            (&wide, 6, "longer than 128"),
        ] {
            let wrong = Require::parse(text).expect_err(text);
            assert!(wrong.at == at && wrong.what.contains(what), "{text}: {wrong}");
        }
    }

    #[test]
    fn nothing_that_is_said_can_end_in_a_panic() {
        let mut state = 7u64;
        let provider = provider();
        let alphabet: Vec<char> = "a!=<>, 1.-GiBé\u{0}\u{1F600}/".chars().collect();
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..state % 23 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push(alphabet[(state >> 33) as usize % alphabet.len()]);
            }
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state ^= state >> 29;
            match Require::parse(&text) {
                Ok(require) => drop(require.fits(&provider)),
                Err(wrong) => assert!(wrong.at <= text.len() + 1, "{text:?}: {wrong}"),
            }
        }
    }
}
