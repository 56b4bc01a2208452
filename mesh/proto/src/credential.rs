//! Who is a member: a chain of leaf and intermediate, judged against the cluster's root at a given time.
//!
//! webpki decides about signatures, times and usages, as the stock verifiers of the data plane do. It neither limits
//! URI names nor misses absent ones, so the names are demanded here: exactly one DNS name, made of the leaf's own key,
//! and the cluster's URI names, which say what the node may act as. What is not understood is refused.

use std::{collections::BTreeSet, fmt, time::Duration};

use ed25519_dalek::{Signature, VerifyingKey};
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, oid_registry::OID_SIG_ED25519, prelude::FromDer,
    time::ASN1Time,
};

use crate::id::{ClusterId, CredentialHash, NodeId, Role, Roles, ServiceName, TokenId, UnixSeconds};

/// Most bytes of a chain, both certificates together.
pub const CHAIN_BYTES_MAX: usize = 4096;
/// Most services that a credential can be bound to: the longest names still fit into a chain.
pub const BOUND_SERVICES_MAX: usize = 16;
/// What comes before the node id in the common name of an issuer's certificate.
pub const ISSUER_NAME: &str = "issuer ";
/// Most bytes of a root certificate.
pub const ROOT_BYTES_MAX: usize = 1024;

/// A leaf and the intermediate that signed it, both DER. Not yet judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// The node's certificate.
    pub leaf: Vec<u8>,
    /// The issuer's certificate, signed by the root.
    pub intermediate: Vec<u8>,
}

impl Chain {
    /// SHA-256 over both.
    pub fn hash(&self) -> CredentialHash {
        let digest = Sha256::new().chain_update(&self.leaf).chain_update(&self.intermediate).finalize();
        CredentialHash::from_bytes(digest.into())
    }
}

/// What a chain proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The key of the leaf.
    pub node: NodeId,
    /// What it may act as.
    pub roles: Roles,
    /// Whether it may admit others.
    pub issuer: bool,
    /// The services that it may offer; `None` is any.
    pub services: Option<BTreeSet<ServiceName>>,
    /// The join token that let it in; `None` for a founder.
    pub token: Option<TokenId>,
    /// Whose issuer certificate signed the leaf, as the root has it.
    pub issued_by: Option<NodeId>,
    /// Start of validity.
    pub not_before: UnixSeconds,
    /// End of validity of the leaf or the intermediate, whichever is sooner.
    pub not_after: UnixSeconds,
    /// Of the chain that was judged.
    pub hash: CredentialHash,
}

/// Why a chain is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Signed under another root.
    #[error("certificate of another cluster")]
    OtherCluster,
    /// Past its end.
    #[error("certificate expired")]
    Expired,
    /// Before its start.
    #[error("certificate not valid yet: check this machine's clock")]
    NotYetValid,
    /// Its key is revoked.
    #[error("this worker's key is revoked")]
    Revoked,
    /// The issuer that signed it is revoked, and nobody spared it.
    #[error("the issuer of its certificate is revoked")]
    IssuerRevoked,
    /// Anything else.
    #[error("certificate refused: {0}")]
    Malformed(String),
}

/// A cluster's root certificate: self-signed, Ed25519, a CA.
#[derive(Clone, PartialEq, Eq)]
pub struct Root {
    der: Vec<u8>,
    cluster: ClusterId,
    key: VerifyingKey,
    not_before: UnixSeconds,
    not_after: UnixSeconds,
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({})", self.cluster.short())
    }
}

/// An issuer's certificate, signed by the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intermediate {
    /// Whose it is, as its subject `issuer <node>` says.
    pub node: Option<NodeId>,
    /// Verifies what the issuer signs.
    pub key: VerifyingKey,
    /// Start of validity.
    pub not_before: UnixSeconds,
    /// End of validity.
    pub not_after: UnixSeconds,
}

impl Root {
    /// Takes a root certificate (DER).
    ///
    /// # Errors
    /// Not a certificate, longer than [`ROOT_BYTES_MAX`], not a CA, not Ed25519, or not signed by itself.
    pub fn new(der: Vec<u8>) -> Result<Self, CredentialError> {
        let (key, (not_before, not_after)) = {
            let cert = parse("root certificate", &der, ROOT_BYTES_MAX)?;
            let key = ed25519_key("root certificate", &cert)?;
            authority("root certificate", &cert)?;
            if cert.subject() != cert.issuer() || !signed_by(&cert, &key) {
                return Err(malformed("the root certificate is not signed by itself"));
            }
            (key, validity("root certificate", &cert)?)
        };
        let cluster = ClusterId::of_root(&der);
        Ok(Self { der, cluster, key, not_before, not_after })
    }

    /// The cluster that it stands for.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The certificate.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Its key, which signs intermediates.
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// The start that it states: the cluster is no older.
    pub fn not_before(&self) -> UnixSeconds {
        self.not_before
    }

    /// The end that it states. Like webpki, [`Root::judge`] does not ask for it: issuers end before it.
    pub fn not_after(&self) -> UnixSeconds {
        self.not_after
    }

    /// Judges a chain with webpki, then demands the DNS name, that its label is the leaf's key, and the URI SANs.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn judge(&self, chain: &Chain, now: UnixSeconds) -> Result<Credential, CredentialError> {
        let length = chain.leaf.len() + chain.intermediate.len();
        if length > CHAIN_BYTES_MAX {
            return Err(CredentialError::Malformed(format!("{length} bytes, at most {CHAIN_BYTES_MAX}")));
        }
        // The issuer first: that tells a stranger's chain and a chain out of its time apart, whatever the leaf is like.
        let issuer = self.judge_intermediate(&chain.intermediate, now)?;
        self.verify_path(chain, now)?;
        let leaf = parse("leaf", &chain.leaf, CHAIN_BYTES_MAX)?;
        let node = NodeId::from_bytes(ed25519_key("leaf", &leaf)?.to_bytes());
        let usage = leaf.extended_key_usage().map_err(|e| malformed(format!("leaf: {e}")))?;
        if !usage.is_some_and(|u| u.value.server_auth && u.value.client_auth) {
            return Err(malformed("the leaf is not for both ends of a connection"));
        }
        let names = Names::read(&leaf, &self.cluster)?;
        if names.dns != node.dns_name(&self.cluster) {
            return Err(malformed("the leaf's DNS name is not that of its key"));
        }
        let (not_before, not_after) = validity("leaf", &leaf)?;
        Ok(Credential {
            node,
            roles: names.roles,
            issuer: names.issuer,
            services: names.services,
            token: names.token,
            issued_by: issuer.node,
            not_before: not_before.max(issuer.not_before),
            not_after: not_after.min(issuer.not_after),
            hash: chain.hash(),
        })
    }

    /// Judges an issuer's certificate (DER) alone.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn judge_intermediate(&self, der: &[u8], now: UnixSeconds) -> Result<Intermediate, CredentialError> {
        let intermediate = self.read_intermediate(der)?;
        if now < intermediate.not_before {
            return Err(CredentialError::NotYetValid);
        }
        if now > intermediate.not_after {
            return Err(CredentialError::Expired);
        }
        Ok(intermediate)
    }

    /// Like [`Root::judge_intermediate`], at no particular time.
    pub(crate) fn read_intermediate(&self, der: &[u8]) -> Result<Intermediate, CredentialError> {
        const WHAT: &str = "issuer certificate";
        let cert = parse(WHAT, der, CHAIN_BYTES_MAX)?;
        if !signed_by(&cert, &self.key) {
            return Err(CredentialError::OtherCluster);
        }
        let key = ed25519_key(WHAT, &cert)?;
        if authority(WHAT, &cert)? != Some(0) {
            return Err(malformed("the issuer certificate's path length is not 0"));
        }
        // Stock verifiers on the data plane rely on this: no issuer can name a host outside of the cluster.
        let constraints = cert.name_constraints().map_err(|e| malformed(format!("{WHAT}: {e}")))?;
        let permitted = constraints.as_ref().and_then(|c| c.value.permitted_subtrees.as_deref()).unwrap_or_default();
        let suffix = self.cluster.dns_suffix();
        if !matches!(permitted, [subtree] if matches!(subtree.base, GeneralName::DNSName(name) if name == suffix)) {
            return Err(malformed("the issuer certificate is not constrained to the cluster's names"));
        }
        let (not_before, not_after) = validity(WHAT, &cert)?;
        let name = cert.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let node = name.and_then(|name| name.strip_prefix(ISSUER_NAME)?.parse().ok());
        Ok(Intermediate { node, key, not_before, not_after })
    }

    fn verify_path(&self, chain: &Chain, now: UnixSeconds) -> Result<(), CredentialError> {
        let refused = |e: webpki::Error| match e {
            webpki::Error::CertExpired { .. } => CredentialError::Expired,
            webpki::Error::CertNotValidYet { .. } => CredentialError::NotYetValid,
            e => malformed(format!("webpki says {e}")),
        };
        let (root, leaf) = (CertificateDer::from(self.der.as_slice()), CertificateDer::from(chain.leaf.as_slice()));
        let anchor = webpki::anchor_from_trusted_cert(&root).map_err(refused)?;
        webpki::EndEntityCert::try_from(&leaf)
            .map_err(refused)?
            .verify_for_usage(
                &[webpki::aws_lc_rs::ED25519],
                &[anchor],
                &[CertificateDer::from(chain.intermediate.as_slice())],
                UnixTime::since_unix_epoch(Duration::from_secs(now.0)),
                webpki::KeyUsage::server_auth(),
                None,
                None,
            )
            .map_err(refused)?;
        Ok(())
    }
}

/// What a leaf's subject alternative names say.
struct Names {
    dns: String,
    roles: Roles,
    issuer: bool,
    services: Option<BTreeSet<ServiceName>>,
    token: Option<TokenId>,
}

impl Names {
    /// Every name must be understood: one that is not might have been a limit.
    fn read(leaf: &X509Certificate<'_>, cluster: &ClusterId) -> Result<Self, CredentialError> {
        let san = leaf.subject_alternative_name().map_err(|e| malformed(format!("leaf: {e}")))?;
        let names = san.map(|s| s.value.general_names.as_slice()).unwrap_or_default();
        let prefix = spiffe(cluster, "");
        let (mut dns, mut roles, mut issuer, mut services) = (None, Roles::default(), false, BTreeSet::new());
        let mut token: Option<TokenId> = None;
        for name in names {
            let fresh = match name {
                GeneralName::DNSName(name) => dns.replace((*name).to_owned()).is_none(),
                GeneralName::URI(uri) => match uri.strip_prefix(&prefix) {
                    Some("issuer") => !std::mem::replace(&mut issuer, true),
                    Some(path) if path.starts_with("token/") => match path["token/".len()..].parse() {
                        Ok(id) => token.replace(id).is_none(),
                        Err(_) => return Err(malformed("the leaf names a join token that is none")),
                    },
                    Some(path) => match (path.strip_prefix("service/").map(ServiceName::new), path.parse::<Role>()) {
                        (Some(Ok(service)), _) => services.insert(service),
                        (None, Ok(role)) => {
                            let fresh = !roles.contains(role);
                            roles = roles.with(role);
                            fresh
                        }
                        _ => return Err(malformed("the leaf has a URI name of no known meaning")),
                    },
                    None => return Err(malformed("the leaf has a URI name of another cluster")),
                },
                _ => return Err(malformed("the leaf has a name that is neither DNS nor URI")),
            };
            if !fresh {
                return Err(malformed("the leaf has a name twice, or two DNS names"));
            }
        }
        let dns = dns.ok_or_else(|| malformed("the leaf has no DNS name"))?;
        if roles.is_empty() {
            return Err(malformed("the leaf names no role"));
        }
        if services.len() > BOUND_SERVICES_MAX {
            return Err(malformed("the leaf names too many services"));
        }
        Ok(Self { dns, roles, issuer, services: (!services.is_empty()).then_some(services), token })
    }
}

/// A URI name of the cluster's certificates: `spiffe://<cluster>/<path>`.
fn spiffe(cluster: &ClusterId, path: &str) -> String {
    format!("spiffe://{cluster}/{path}")
}

/// The URI names of a leaf: one for each role, the issuer flag, the services (none are any), and the join token.
pub fn uri_names(
    cluster: &ClusterId,
    roles: Roles,
    issuer: bool,
    services: Option<&BTreeSet<ServiceName>>,
    token: Option<TokenId>,
) -> Vec<String> {
    let roles = roles.iter().map(|r| r.to_string());
    let services = services.into_iter().flatten().map(|s| format!("service/{s}"));
    let token = token.map(|id| format!("token/{id}"));
    roles
        .chain(issuer.then(|| "issuer".to_owned()))
        .chain(services)
        .chain(token)
        .map(|path| spiffe(cluster, &path))
        .collect()
}

fn malformed(why: impl Into<String>) -> CredentialError {
    CredentialError::Malformed(why.into())
}

fn parse<'a>(what: &str, der: &'a [u8], bytes_max: usize) -> Result<X509Certificate<'a>, CredentialError> {
    if der.len() > bytes_max {
        return Err(CredentialError::Malformed(format!("{what}: {} bytes, at most {bytes_max}", der.len())));
    }
    match X509Certificate::from_der(der) {
        Ok(([], cert)) => Ok(cert),
        Ok(_) => Err(CredentialError::Malformed(format!("{what}: bytes after its end"))),
        Err(_) => Err(CredentialError::Malformed(format!("{what}: not a certificate"))),
    }
}

fn ed25519_key(what: &str, cert: &X509Certificate<'_>) -> Result<VerifyingKey, CredentialError> {
    let spki = cert.public_key();
    let bytes = (spki.algorithm.algorithm == OID_SIG_ED25519).then_some(&*spki.subject_public_key.data);
    bytes
        .and_then(|b| <&[u8; 32]>::try_from(b).ok())
        .and_then(|b| VerifyingKey::from_bytes(b).ok())
        .filter(|key| !key.is_weak())
        .ok_or_else(|| CredentialError::Malformed(format!("{what}: not an Ed25519 key")))
}

/// Demands a CA that signs certificates; returns its path length.
fn authority(what: &str, cert: &X509Certificate<'_>) -> Result<Option<u32>, CredentialError> {
    let constraints = cert.basic_constraints().ok().flatten().filter(|c| c.value.ca);
    let signs = cert.key_usage().ok().flatten().is_some_and(|u| u.value.key_cert_sign());
    match constraints {
        Some(c) if signs => Ok(c.value.path_len_constraint),
        _ => Err(CredentialError::Malformed(format!("{what}: not a certificate authority"))),
    }
}

fn validity(what: &str, cert: &X509Certificate<'_>) -> Result<(UnixSeconds, UnixSeconds), CredentialError> {
    let seconds = |t: ASN1Time| u64::try_from(t.timestamp()).map(UnixSeconds);
    let validity = cert.validity();
    match (seconds(validity.not_before), seconds(validity.not_after)) {
        (Ok(from), Ok(to)) if from <= to => Ok((from, to)),
        _ => Err(CredentialError::Malformed(format!("{what}: impossible validity"))),
    }
}

fn signed_by(cert: &X509Certificate<'_>, key: &VerifyingKey) -> bool {
    let ed25519 = cert.signature_algorithm.algorithm == OID_SIG_ED25519;
    let signature = Signature::from_slice(&cert.signature_value.data);
    ed25519 && signature.is_ok_and(|s| key.verify_strict(cert.tbs_certificate.as_ref(), &s).is_ok())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, SanType};

    use super::*;
    use crate::testing::{BACKDATE_S, LEAF_LIFE_S, LeafSpec, START, TestCluster, key, node_id, service_name};

    fn uri(text: String) -> SanType {
        SanType::URI(text.try_into().expect("ASCII"))
    }

    fn dns(text: String) -> SanType {
        SanType::DnsName(text.try_into().expect("ASCII"))
    }

    /// Judges a leaf that differs from a good worker's only by `change`.
    fn judged(change: impl FnOnce(&mut CertificateParams, &ClusterId)) -> Result<Credential, CredentialError> {
        let (cluster, node) = (TestCluster::new(1), node_id(&key(7)));
        let id = cluster.id();
        cluster.root.judge(&cluster.chain_with(&node, &LeafSpec::worker(), |p| change(p, &id)), START)
    }

    #[test]
    fn a_good_chain_proves_what_it_says() {
        let (cluster, node) = (TestCluster::new(1), node_id(&key(7)));
        let spec =
            LeafSpec { issuer: true, ..LeafSpec::roles(&[Role::Worker, Role::Gateway]).only(&["files", "notes"]) };
        let chain = cluster.chain(&node, &spec);
        let credential = cluster.root.judge(&chain, START).expect("good");
        let services = [service_name("files"), service_name("notes")].into_iter().collect();
        assert_eq!(
            credential,
            Credential {
                node,
                roles: spec.roles,
                issuer: true,
                services: Some(services),
                token: None,
                issued_by: None,
                not_before: spec.not_before,
                not_after: spec.not_after,
                hash: chain.hash(),
            }
        );
        let any = cluster.root.judge(&cluster.chain(&node, &LeafSpec::worker()), START).expect("good");
        assert_eq!((any.services, any.issuer), (None, false));
    }

    #[test]
    fn the_names_that_are_written_are_the_names_that_are_read() {
        let services: BTreeSet<_> = [service_name("a"), service_name("service")].into_iter().collect();
        let roles = Role::ALL.into_iter().collect();
        let token = TokenId([7; 8]);
        let credential = judged(|p, id| {
            p.subject_alt_names.truncate(1);
            p.subject_alt_names.extend(uri_names(id, roles, true, Some(&services), Some(token)).into_iter().map(uri));
        });
        let credential = credential.expect("good");
        assert_eq!((credential.roles, credential.issuer, credential.services), (roles, true, Some(services)));
        assert_eq!(credential.token, Some(token));
    }

    #[test]
    fn time_is_judged_to_the_second() {
        let (cluster, node) = (TestCluster::new(1), node_id(&key(7)));
        let chain = cluster.chain(&node, &LeafSpec::worker());
        let at = |s: u64| cluster.root.judge(&chain, UnixSeconds(s)).map(|_| ());
        assert_eq!(at(START.0 + LEAF_LIFE_S), Ok(()));
        assert_eq!(at(START.0 + LEAF_LIFE_S + 1), Err(CredentialError::Expired));
        assert_eq!(at(START.0 - BACKDATE_S), Ok(()));
        assert_eq!(at(START.0 - BACKDATE_S - 1), Err(CredentialError::NotYetValid));
        assert_eq!(at(0), Err(CredentialError::NotYetValid));
        assert_eq!(at(u64::MAX), Err(CredentialError::Expired));
    }

    #[test]
    fn the_issuer_bounds_the_life_of_the_chain() {
        let end = START.0 + 100;
        let short = TestCluster::with_intermediate(1, |p| {
            p.not_after =
                time::OffsetDateTime::from_unix_timestamp(i64::try_from(end).expect("a date")).expect("a date");
        });
        let chain = short.chain(&node_id(&key(7)), &LeafSpec::worker());
        assert_eq!(short.root.judge(&chain, START).map(|c| c.not_after), Ok(UnixSeconds(end)));
        assert_eq!(short.root.judge(&chain, UnixSeconds(end + 1)), Err(CredentialError::Expired));
        assert_eq!(
            short.root.judge_intermediate(&chain.intermediate, UnixSeconds(end + 1)).map(|i| i.not_after),
            Err(CredentialError::Expired)
        );
    }

    #[test]
    fn another_cluster_is_told_apart() {
        let (ours, theirs, node) = (TestCluster::new(1), TestCluster::new(2), node_id(&key(7)));
        let chain = theirs.chain(&node, &LeafSpec::worker());
        assert_eq!(ours.root.judge(&chain, START), Err(CredentialError::OtherCluster));
        let mixed = Chain { leaf: chain.leaf, intermediate: ours.intermediate.clone() };
        assert!(matches!(ours.root.judge(&mixed, START), Err(CredentialError::Malformed(_))), "their leaf, our issuer");
    }

    #[test]
    fn each_name_is_demanded() {
        let other = node_id(&key(8));
        let good = |id: &ClusterId| uri(format!("spiffe://{id}/worker"));
        type Change = Box<dyn Fn(&mut CertificateParams, &ClusterId)>;
        let bad: Vec<(&str, Change)> = vec![
            ("no names at all", Box::new(|p, _| p.subject_alt_names.clear())),
            ("no URI", Box::new(|p, _| p.subject_alt_names.truncate(1))),
            ("no DNS name", Box::new(|p, _| drop(p.subject_alt_names.remove(0)))),
            ("another key's name", Box::new(move |p, id| p.subject_alt_names[0] = dns(other.dns_name(id)))),
            ("two DNS names", Box::new(move |p, id| p.subject_alt_names.push(dns(other.dns_name(id))))),
            ("role twice", Box::new(move |p, id| p.subject_alt_names.push(good(id)))),
            ("only the issuer flag", Box::new(|p, id| p.subject_alt_names[1] = uri(format!("spiffe://{id}/issuer")))),
            ("unknown role", Box::new(|p, id| p.subject_alt_names.push(uri(format!("spiffe://{id}/king"))))),
            ("bad service", Box::new(|p, id| p.subject_alt_names.push(uri(format!("spiffe://{id}/service/A"))))),
            ("other URI", Box::new(|p, _| p.subject_alt_names.push(uri("https://example.org/worker".into())))),
            ("an address", Box::new(|p, _| p.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into())))),
            (
                "too many services",
                Box::new(|p, id| {
                    let services = (0..=BOUND_SERVICES_MAX).map(|i| uri(format!("spiffe://{id}/service/s{i}")));
                    p.subject_alt_names.extend(services);
                }),
            ),
            ("client only", Box::new(|p, _| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth])),
            ("server only", Box::new(|p, _| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])),
            ("no usage", Box::new(|p, _| p.extended_key_usages.clear())),
            ("a CA as leaf", Box::new(|p, _| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained))),
        ];
        assert!(judged(|_, _| ()).is_ok());
        for (what, change) in bad {
            let got = judged(change);
            assert!(matches!(got, Err(CredentialError::Malformed(_))), "{what}: {got:?}");
        }
    }

    #[test]
    fn the_longest_names_fit_a_chain() {
        let (cluster, node) = (TestCluster::new(1), node_id(&key(7)));
        let names: Vec<_> = (0..BOUND_SERVICES_MAX).map(|i| format!("{i:02}{}", "x".repeat(61))).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let spec = LeafSpec { issuer: true, ..LeafSpec::roles(&Role::ALL).only(&names) };
        let chain = cluster.chain(&node, &spec);
        cluster.root.judge(&chain, START).expect("fits");
    }

    #[test]
    fn an_issuer_is_constrained() {
        let node = node_id(&key(7));
        let subtree = |name: &str| rcgen::GeneralSubtree::DnsName(name.to_owned());
        type Change = Box<dyn FnOnce(&mut CertificateParams)>;
        let bad: Vec<(&str, Change)> = vec![
            ("no name constraint", Box::new(|p| p.name_constraints = None)),
            (
                "a wider one",
                Box::new(move |p| {
                    if let Some(c) = &mut p.name_constraints {
                        c.permitted_subtrees = vec![subtree("paceline.internal")];
                    }
                }),
            ),
            (
                "one more",
                Box::new(move |p| {
                    if let Some(c) = &mut p.name_constraints {
                        c.permitted_subtrees.push(subtree("example.org"));
                    }
                }),
            ),
            ("path length 1", Box::new(|p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(1)))),
            ("no CA", Box::new(|p| p.is_ca = IsCa::ExplicitNoCa)),
        ];
        for (what, change) in bad {
            let cluster = TestCluster::with_intermediate(1, change);
            let got = cluster.root.judge(&cluster.chain(&node, &LeafSpec::worker()), START);
            assert!(matches!(got, Err(CredentialError::Malformed(_))), "{what}: {got:?}");
        }
    }

    #[test]
    fn only_a_ca_is_a_root() {
        let cluster = TestCluster::new(1);
        let chain = cluster.chain(&node_id(&key(7)), &LeafSpec::worker());
        assert!(Root::new(cluster.root.der().to_vec()).is_ok());
        assert!(Root::new(chain.leaf).is_err(), "a leaf");
        assert!(Root::new(chain.intermediate).is_err(), "not signed by itself");
        assert!(Root::new(Vec::new()).is_err());
        assert!(Root::new(vec![0x30; ROOT_BYTES_MAX + 1]).is_err());
        let longer = [cluster.root.der(), &[0]].concat();
        assert!(Root::new(longer).is_err(), "bytes after the end");
    }

    #[test]
    fn no_changed_byte_of_a_chain_is_accepted() {
        let (cluster, node) = (TestCluster::new(1), node_id(&key(7)));
        let good = cluster.chain(&node, &LeafSpec::worker());
        for i in 0..good.leaf.len() + good.intermediate.len() {
            let mut bad = good.clone();
            match bad.leaf.get_mut(i) {
                Some(byte) => *byte ^= 0x01,
                None => bad.intermediate[i - good.leaf.len()] ^= 0x01,
            }
            assert!(cluster.root.judge(&bad, START).is_err(), "byte {i}");
        }
        let huge = Chain { leaf: vec![0; CHAIN_BYTES_MAX], intermediate: vec![0] };
        assert!(matches!(cluster.root.judge(&huge, START), Err(CredentialError::Malformed(_))));
    }
}
