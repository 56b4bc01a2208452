//! The certificate authority of an issuer: founds clusters, signs leaves for keys that it never sees, and, where the
//! root key is at hand, makes other issuers.
//!
//! The cluster's id is the hash of the root certificate, so the root cannot bear it: it bears a random name instead,
//! which keeps the names of two clusters distinct. The intermediate is constrained to the cluster's DNS names.

use std::{collections::BTreeSet, time::Duration};

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use paceline_proto::{
    credential::{Chain, Credential, ISSUER_NAME, Intermediate, Root, uri_names},
    id::{ClusterId, NodeId, Roles, ServiceName, TokenId, UnixSeconds},
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyUsagePurpose, NameConstraints, PKCS_ED25519, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

/// Certificates begin this long before they are made: clocks differ.
pub(crate) const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Life of a root.
pub(crate) const ROOT_TTL: Duration = Duration::from_secs(20 * 365 * 86_400);
/// Life of an issuer's certificate: years, because it outlives a root key that is kept offline.
pub(crate) const INTERMEDIATE_TTL: Duration = Duration::from_secs(5 * 365 * 86_400);

/// What a leaf is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Whose key.
    pub(crate) node: NodeId,
    /// What it may act as.
    pub(crate) roles: Roles,
    /// Whether it may admit others.
    pub(crate) issuer: bool,
    /// What it may offer; `None` is any.
    pub(crate) services: Option<BTreeSet<ServiceName>>,
    /// The join token that lets it in.
    pub(crate) token: Option<TokenId>,
}

impl From<&Credential> for Subject {
    fn from(c: &Credential) -> Self {
        Self { node: c.node, roles: c.roles, issuer: c.issuer, services: c.services.clone(), token: c.token }
    }
}

/// An issuer's keys and certificate.
#[derive(Clone)]
pub(crate) struct Authority {
    root: Root,
    root_key: Option<SigningKey>,
    key: SigningKey,
    intermediate: Vec<u8>,
    validity: Intermediate,
}

/// Why nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// Only a holder of the root key can.
    #[error("the root key is not at this issuer: it can make no other issuers")]
    NoRootKey,
    /// The key, the certificate and the root do not belong together.
    #[error("{0}")]
    Unfit(String),
}

impl Authority {
    /// A new cluster, and its first issuer.
    ///
    /// # Errors
    /// A time that no certificate can bear.
    pub(crate) fn found(node: NodeId, now: UnixSeconds) -> Result<Self, AuthorityError> {
        let root_key = new_key();
        let name = format!("paceline root {}", data_encoding::HEXLOWER.encode(&rand::random::<[u8; 8]>()));
        let params = authority_params(&name, 1, span(now, ROOT_TTL, None))?;
        let der = params.self_signed(&Key(&root_key, public(&root_key))).map_err(unfit)?.der().to_vec();
        let root = Root::new(der).map_err(unfit)?;
        let key = new_key();
        let intermediate = sign_intermediate(&root, &root_key, node, &public(&key), now)?;
        Self::new(root, Some(root_key), key, intermediate, now)
    }

    /// Takes over what is on disk, or what a holder of the root key has issued.
    ///
    /// # Errors
    /// Keys and certificates that do not belong together, or a certificate that is not valid now.
    pub(crate) fn new(
        root: Root,
        root_key: Option<SigningKey>,
        key: SigningKey,
        intermediate: Vec<u8>,
        now: UnixSeconds,
    ) -> Result<Self, AuthorityError> {
        let validity = root.judge_intermediate(&intermediate, now).map_err(|e| AuthorityError::Unfit(e.to_string()))?;
        if validity.key != key.verifying_key() {
            return Err(AuthorityError::Unfit("the issuer's key is not that of its certificate".to_owned()));
        }
        if let Some(root_key) = &root_key {
            holds_root(&root, root_key)?;
        }
        Ok(Self { root, root_key, key, intermediate, validity })
    }

    /// Signs tokens.
    pub(crate) fn key(&self) -> &SigningKey {
        &self.key
    }

    /// For disk, at a founder.
    pub(crate) fn root_key(&self) -> Option<&SigningKey> {
        self.root_key.as_ref()
    }

    /// The root.
    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    /// This issuer's certificate (DER).
    pub(crate) fn intermediate(&self) -> &[u8] {
        &self.intermediate
    }

    /// Until when it can sign.
    pub(crate) fn not_after(&self) -> UnixSeconds {
        self.validity.not_after
    }

    /// Signs a leaf that lives for `ttl`, or as long as this issuer where that is sooner.
    ///
    /// # Errors
    /// Never for a key that libp2p has authenticated, unless this issuer is out of its own time.
    pub(crate) fn issue(&self, subject: &Subject, now: UnixSeconds, ttl: Duration) -> Result<Chain, AuthorityError> {
        let params = leaf_params(&self.root.cluster(), subject, now, ttl, self.validity.not_after)?;
        let chain = self.sign(&params, subject.node)?;
        // What the others will demand is demanded before it leaves the house.
        self.root.judge(&chain, now).map_err(unfit)?;
        Ok(chain)
    }

    /// Signs an issuer's certificate.
    ///
    /// # Errors
    /// The root key is not here, or the key is none.
    pub(crate) fn issue_intermediate(
        &self,
        node: NodeId,
        key: &[u8; 32],
        now: UnixSeconds,
    ) -> Result<Vec<u8>, AuthorityError> {
        let root_key = self.root_key.as_ref().ok_or(AuthorityError::NoRootKey)?;
        sign_intermediate(&self.root, root_key, node, key, now)
    }

    /// The same authority with a fresh certificate for the same key.
    ///
    /// # Errors
    /// The root key is not here.
    pub(crate) fn renewed(&self, node: NodeId, now: UnixSeconds) -> Result<Self, AuthorityError> {
        let intermediate = self.issue_intermediate(node, &public(&self.key), now)?;
        Self::new(self.root.clone(), self.root_key.clone(), self.key.clone(), intermediate, now)
    }

    /// From when on its certificate is to be renewed.
    pub(crate) fn renew_at(&self) -> UnixSeconds {
        half_life(self.validity.not_before, self.validity.not_after)
    }

    fn sign(&self, params: &CertificateParams, node: NodeId) -> Result<Chain, AuthorityError> {
        let issuer = Issuer::from_ca_cert_der(
            &CertificateDer::from(self.intermediate.as_slice()),
            Key(&self.key, public(&self.key)),
        );
        let leaf = params.signed_by(&PublicKey(*node.as_bytes()), &issuer.map_err(unfit)?).map_err(unfit)?;
        Ok(Chain { leaf: leaf.der().to_vec(), intermediate: self.intermediate.clone() })
    }
}

/// When half of a certificate's life is over, counted from when it was made: a life shorter than the backdating would
/// else be half over from the start.
pub(crate) fn half_life(not_before: UnixSeconds, not_after: UnixSeconds) -> UnixSeconds {
    let made = not_before.0.saturating_add(BACKDATE.as_secs()).min(not_after.0);
    UnixSeconds(made + (not_after.0 - made) / 2)
}

/// A fresh secret key.
pub(crate) fn new_key() -> SigningKey {
    let seed = zeroize::Zeroizing::new(rand::random::<[u8; 32]>());
    SigningKey::from_bytes(&seed)
}

/// Whether the key is the root's.
pub(crate) fn holds_root(root: &Root, key: &SigningKey) -> Result<(), AuthorityError> {
    if root.key() == &key.verifying_key() {
        Ok(())
    } else {
        Err(AuthorityError::Unfit("the root key is not that of the root certificate".to_owned()))
    }
}

fn public(key: &SigningKey) -> [u8; 32] {
    key.verifying_key().to_bytes()
}

fn unfit(e: impl std::fmt::Display) -> AuthorityError {
    AuthorityError::Unfit(e.to_string())
}

fn sign_intermediate(
    root: &Root,
    root_key: &SigningKey,
    node: NodeId,
    key: &[u8; 32],
    now: UnixSeconds,
) -> Result<Vec<u8>, AuthorityError> {
    if !VerifyingKey::from_bytes(key).is_ok_and(|k| !k.is_weak()) {
        return Err(unfit("not an issuer key"));
    }
    let mut params =
        authority_params(&format!("{ISSUER_NAME}{node}"), 0, span(now, INTERMEDIATE_TTL, Some(root.not_after())))?;
    params.distinguished_name.push(DnType::OrganizationName, organization(&root.cluster()));
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(root.cluster().dns_suffix())],
        excluded_subtrees: Vec::new(),
    });
    let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(root.der()), Key(root_key, public(root_key)));
    let der = params.signed_by(&PublicKey(*key), &issuer.map_err(unfit)?).map_err(unfit)?.der().to_vec();
    root.judge_intermediate(&der, now).map_err(unfit)?;
    Ok(der)
}

fn organization(cluster: &ClusterId) -> String {
    format!("paceline {}", cluster.short())
}

fn span(now: UnixSeconds, ttl: Duration, end: Option<UnixSeconds>) -> (UnixSeconds, UnixSeconds) {
    let not_after = UnixSeconds(now.0.saturating_add(ttl.as_secs()));
    (UnixSeconds(now.0.saturating_sub(BACKDATE.as_secs())), end.map_or(not_after, |end| end.min(not_after)))
}

fn params(name: &str, (from, to): (UnixSeconds, UnixSeconds)) -> Result<CertificateParams, AuthorityError> {
    let date = |at: UnixSeconds| {
        let seconds = i64::try_from(at.0).map_err(unfit)?;
        OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| unfit("a time that no certificate can bear"))
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (date(from)?, date(to)?);
    // rcgen's own serial numbers are hashes of the key: a renewed leaf would have the same again.
    let mut serial: [u8; 16] = rand::random();
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn authority_params(
    name: &str,
    path_length: u8,
    span: (UnixSeconds, UnixSeconds),
) -> Result<CertificateParams, AuthorityError> {
    let mut params = params(name, span)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn leaf_params(
    cluster: &ClusterId,
    subject: &Subject,
    now: UnixSeconds,
    ttl: Duration,
    end: UnixSeconds,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = params(&subject.node.to_string(), span(now, ttl, Some(end)))?;
    params.distinguished_name.push(DnType::OrganizationName, organization(cluster));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let dns = subject.node.dns_name(cluster).try_into().map_err(unfit)?;
    params.subject_alt_names.push(SanType::DnsName(dns));
    for uri in uri_names(cluster, subject.roles, subject.issuer, subject.services.as_ref(), subject.token) {
        params.subject_alt_names.push(SanType::URI(uri.try_into().map_err(unfit)?));
    }
    Ok(params)
}

/// A public key as rcgen wants it.
struct PublicKey([u8; 32]);

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

/// A signing key as rcgen wants it; it is never copied out.
struct Key<'a>(&'a SigningKey, [u8; 32]);

impl PublicKeyData for Key<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.1
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

impl rcgen::SigningKey for Key<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.0.sign(message).to_bytes().to_vec())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use paceline_proto::{credential::CredentialError, id::Role};

    use super::*;

    pub(crate) const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
    pub(crate) const DAY: Duration = Duration::from_secs(86_400);

    pub(crate) fn node_of(key: &SigningKey) -> NodeId {
        NodeId::from_bytes(public(key))
    }

    pub(crate) fn worker(node: NodeId) -> Subject {
        Subject { node, roles: [Role::Worker].into_iter().collect(), issuer: false, services: None, token: None }
    }

    /// A chain that no issuer would sign.
    pub(crate) fn forge(
        authority: &Authority,
        subject: &Subject,
        ttl: Duration,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Chain {
        let mut params =
            leaf_params(&authority.root.cluster(), subject, NOW, ttl, authority.not_after()).expect("good");
        change(&mut params);
        authority.sign(&params, subject.node).expect("signed")
    }

    #[test]
    fn a_leaf_says_what_its_issuer_was_told() {
        let founder = node_of(&new_key());
        let authority = Authority::found(founder, NOW).expect("founded");
        let services = [ServiceName::new("files").expect("a name")].into_iter().collect();
        let subject = Subject {
            node: node_of(&new_key()),
            roles: Role::ALL.into_iter().collect(),
            issuer: true,
            services: Some(services),
            token: Some(TokenId([3; 8])),
        };
        let chain = authority.issue(&subject, NOW, 30 * DAY).expect("issued");
        let credential = authority.root().judge(&chain, NOW).expect("good");
        assert_eq!(Subject::from(&credential), subject);
        assert_eq!(credential.not_before.0, NOW.0 - 300);
        assert_eq!(credential.not_after.0, NOW.0 + 30 * 86_400);
        let again = authority.issue(&Subject::from(&credential), UnixSeconds(NOW.0 + 9), 30 * DAY).expect("renewed");
        let renewed = authority.root().judge(&again, NOW).expect("good");
        assert_eq!(Subject::from(&renewed), subject, "renewal keeps roles, services and the issuer flag");
        assert_ne!(again, chain);
    }

    #[test]
    fn two_clusters_differ_in_name_and_trust() {
        let node = node_of(&new_key());
        let (ours, theirs) =
            (Authority::found(node, NOW).expect("founded"), Authority::found(node, NOW).expect("founded"));
        assert_ne!(ours.root().cluster(), theirs.root().cluster());
        let name = |a: &Authority| {
            x509_parser::parse_x509_certificate(a.root().der()).expect("a certificate").1.subject().to_string()
        };
        assert_ne!(name(&ours), name(&theirs));
        let chain = theirs.issue(&worker(node), NOW, DAY).expect("issued");
        assert_eq!(ours.root().judge(&chain, NOW), Err(CredentialError::OtherCluster));
    }

    #[test]
    fn only_the_root_key_makes_issuers() {
        let founder = node_of(&new_key());
        let authority = Authority::found(founder, NOW).expect("founded");
        let (node, key) = (node_of(&new_key()), new_key());
        let intermediate = authority.issue_intermediate(node, &public(&key), NOW).expect("issued");
        let root = authority.root().clone();
        let second = Authority::new(root.clone(), None, key, intermediate.clone(), NOW).expect("an issuer");
        let chain = second.issue(&worker(founder), NOW, DAY).expect("issued");
        assert_eq!(root.judge(&chain, NOW).map(|c| c.node), Ok(founder));
        assert_eq!(second.issue_intermediate(node, &public(&new_key()), NOW), Err(AuthorityError::NoRootKey));
        assert!(authority.issue_intermediate(node, &[0; 32], NOW).is_err(), "a weak key");
        let stranger = Authority::new(root.clone(), None, new_key(), intermediate.clone(), NOW);
        assert!(matches!(stranger, Err(AuthorityError::Unfit(_))), "another's certificate");
        let liar = Authority::new(root, Some(new_key()), second.key().clone(), intermediate, NOW);
        assert!(matches!(liar, Err(AuthorityError::Unfit(_))), "another's root key");
    }

    #[test]
    fn a_short_life_is_renewed_at_its_half_too() {
        let node = node_of(&new_key());
        let authority = Authority::found(node, NOW).expect("founded");
        for life in [2, 10, 86_400] {
            let chain = authority.issue(&worker(node), NOW, Duration::from_secs(life)).expect("issued");
            let credential = authority.root().judge(&chain, NOW).expect("good");
            assert_eq!(half_life(credential.not_before, credential.not_after).0, NOW.0 + life / 2);
        }
        assert_eq!(half_life(NOW, UnixSeconds(0)), UnixSeconds(0));
    }

    #[test]
    fn an_issuer_signs_within_its_own_time() {
        let founder = node_of(&new_key());
        let authority = Authority::found(founder, NOW).expect("founded");
        let late = UnixSeconds(authority.not_after().0 - 100);
        let chain = authority.issue(&worker(founder), late, DAY).expect("issued");
        assert_eq!(authority.root().judge(&chain, late).map(|c| c.not_after), Ok(authority.not_after()));
        assert!(authority.issue(&worker(founder), UnixSeconds(late.0 + 101), DAY).is_err());
        let renewed = authority.renewed(founder, late).expect("renewed");
        assert!(renewed.not_after() > authority.not_after() && renewed.key() == authority.key());
        assert!(authority.renew_at() < late && renewed.renew_at() > late);
        assert!(Authority::found(founder, UnixSeconds(u64::MAX / 2)).is_err(), "a time beyond all dates");
    }
}
