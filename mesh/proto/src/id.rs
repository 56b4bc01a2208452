//! The names of things: newtypes that cannot be swapped by mistake.
//!
//! Every type here is bounded, so that a value that parsed can be sent, stored and printed without another look.

use std::{fmt, str::FromStr};

use data_encoding::{Encoding, Specification};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Longest service name, worker name or site, in bytes (a DNS label, RFC 1035).
pub const NAME_BYTES_MAX: usize = 63;

/// A name, key or hash that does not have its form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is not of the form that the type asks for.
    #[error("{what} `{text}` must match {form}")]
    Form {
        /// What kind of name it should have been.
        what: &'static str,
        /// What was given, cut to 80 characters.
        text: String,
        /// The form in words or as a regular expression.
        form: &'static str,
    },
}

fn form(what: &'static str, text: &str, form: &'static str) -> IdError {
    IdError::Form { what, text: text.chars().take(80).collect(), form }
}

/// Lower-case base32 without padding (RFC 4648): 32 bytes are 52 characters, which fits a DNS label.
pub fn base32() -> &'static Encoding {
    static ENCODING: std::sync::OnceLock<Encoding> = std::sync::OnceLock::new();
    ENCODING.get_or_init(|| {
        let mut s = Specification::new();
        s.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
        s.encoding().unwrap_or(data_encoding::BASE32_NOPAD)
    })
}

macro_rules! key_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps the 32 bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first eight characters, for logs.
            pub fn short(&self) -> String {
                self.to_string().chars().take(8).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&base32().encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                base32()
                    .decode(s.as_bytes())
                    .ok()
                    .and_then(|v| <[u8; 32]>::try_from(v).ok())
                    .map(Self)
                    .ok_or_else(|| form($what, s, "52 characters of a-z and 2-7"))
            }
        }
    };
}

key_type! {
    /// A node: its Ed25519 public key. libp2p's PeerId and the X.509 leaf carry the same key.
    NodeId, "node id"
}
key_type! {
    /// A cluster: SHA-256 of its root certificate (DER).
    ClusterId, "cluster id"
}
key_type! {
    /// SHA-256 of a credential chain (leaf and intermediate, DER, one after the other).
    CredentialHash, "credential hash"
}

impl ClusterId {
    /// The id of the cluster whose root certificate this is.
    pub fn of_root(root_der: &[u8]) -> Self {
        Self(Sha256::digest(root_der).into())
    }

    /// The DNS suffix of its members' certificates: `<cluster>.paceline.internal`.
    pub fn dns_suffix(&self) -> String {
        format!("{self}.paceline.internal")
    }
}

impl NodeId {
    /// The one DNS name that this node's certificate bears: `<key>.<cluster>.paceline.internal`.
    pub fn dns_name(&self, cluster: &ClusterId) -> String {
        format!("{self}.{}", cluster.dns_suffix())
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $form:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Checks the form.
            ///
            /// # Errors
            /// [`IdError::Form`] names what was given and the form.
            pub fn new(s: &str) -> Result<Self, IdError> {
                let valid: fn(&str) -> bool = $valid;
                if s.len() <= NAME_BYTES_MAX && valid(s) { Ok(Self(s.into())) } else { Err(form($what, s, $form)) }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                Self::new(s)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let s = String::deserialize(d)?;
                Self::new(&s).map_err(serde::de::Error::custom)
            }
        }
    };
}

fn lower_or_digit(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

name_type! {
    /// A service, as it stands in URLs: `[a-z0-9][a-z0-9-]{0,62}`.
    ServiceName, "service name", "[a-z0-9][a-z0-9-]{0,62}",
    |s| s.starts_with(lower_or_digit) && s.chars().all(|c| lower_or_digit(c) || c == '-')
}
name_type! {
    /// A worker's name (`--name`): `[A-Za-z0-9][A-Za-z0-9._-]{0,62}`. One in a cluster.
    WorkerName, "worker name", "[A-Za-z0-9][A-Za-z0-9._-]{0,62}",
    |s| s.starts_with(|c: char| c.is_ascii_alphanumeric()) && s.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}
name_type! {
    /// A site (`--site`): `[A-Za-z0-9][A-Za-z0-9._-]{0,62}`, `default` where none was given.
    Site, "site", "[A-Za-z0-9][A-Za-z0-9._-]{0,62}",
    |s| s.starts_with(|c: char| c.is_ascii_alphanumeric()) && s.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

impl Default for Site {
    fn default() -> Self {
        Self("default".into())
    }
}

/// How often a node has started or refuted a suspicion: only its owner raises it (SWIM, section 4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// Counts the manifests of one incarnation, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ManifestVersion(pub u64);

/// Seconds since 1970-01-01 UTC. Compared with certificates only, never between two machines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnixSeconds(pub u64);

/// A join token's grant: 8 random bytes, shown as 16 hex characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenId(pub [u8; 8]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

impl FromStr for TokenId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        data_encoding::HEXLOWER
            .decode(s.as_bytes())
            .ok()
            .and_then(|v| <[u8; 8]>::try_from(v).ok())
            .map(Self)
            .ok_or_else(|| form("token id", s, "16 hex characters"))
    }
}

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Offers services.
    Worker,
    /// Opens service streams for callers.
    Gateway,
    /// Entry point and relay.
    Bootstrap,
}

impl Role {
    /// All of them, in order.
    pub const ALL: [Role; 3] = [Role::Worker, Role::Gateway, Role::Bootstrap];

    /// The word on the command line and in certificates.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Worker => "worker",
            Role::Gateway => "gateway",
            Role::Bootstrap => "bootstrap",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        Role::ALL.into_iter().find(|r| r.as_str() == s).ok_or_else(|| form("role", s, "worker, gateway or bootstrap"))
    }
}

/// A set of [`Role`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Roles(u8);

impl Roles {
    /// Whether the role is in the set.
    pub const fn contains(self, role: Role) -> bool {
        self.0 & (1 << role as u8) != 0
    }

    /// The set with the role added.
    #[must_use]
    pub const fn with(self, role: Role) -> Self {
        Self(self.0 | (1 << role as u8))
    }

    /// Whether every role of `self` is in `other`.
    pub const fn is_subset(self, other: Roles) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether it is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The roles in order.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |r| self.contains(*r))
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<T: IntoIterator<Item = Role>>(iter: T) -> Self {
        iter.into_iter().fold(Roles::default(), Roles::with)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.iter().map(Role::as_str).collect();
        f.write_str(&words.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_their_text() {
        let id = NodeId::from_bytes([7; 32]);
        assert_eq!(id.to_string().len(), 52);
        assert_eq!(id.to_string().parse::<NodeId>(), Ok(id));
        assert!("A".repeat(52).parse::<NodeId>().is_err(), "upper case is another text");
    }

    #[test]
    fn names_are_bounded() {
        assert!(ServiceName::new("rag-2").is_ok());
        for bad in ["", "-a", "Rag", "a_b", "a/b", &"a".repeat(64)] {
            assert!(ServiceName::new(bad).is_err(), "{bad}");
        }
        assert!(WorkerName::new("Box.1_a").is_ok());
        assert!(WorkerName::new("../x").is_err());
    }

    #[test]
    fn roles_are_a_set() {
        let r: Roles = [Role::Gateway, Role::Worker].into_iter().collect();
        assert_eq!(r.to_string(), "worker,gateway");
        assert!(Roles::default().with(Role::Worker).is_subset(r));
        assert!(!r.is_subset(Roles::default().with(Role::Worker)));
    }
}
