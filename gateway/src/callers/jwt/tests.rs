//! Tokens of every algorithm that is taken, and the known ways to forge one.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use paceline_mesh::args::Jwks;
use serde_json::json;

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW_S: fn() -> u64 = super::super::keys::unix_now;

/// What stands in PKCS#8 before the PKCS#1 form of an RSA key of 2048 bits.
const PKCS8_BYTES: usize = 26;

struct Signer {
    algorithm: Algorithm,
    key: EncodingKey,
    id: &'static str,
}

fn signers() -> Vec<Signer> {
    let pair = |algorithm| rcgen::KeyPair::generate_for(algorithm).expect("a key").serialize_der();
    vec![
        Signer {
            algorithm: Algorithm::ES256,
            key: EncodingKey::from_ec_der(&pair(&rcgen::PKCS_ECDSA_P256_SHA256)),
            id: "ec",
        },
        Signer { algorithm: Algorithm::EdDSA, key: EncodingKey::from_ed_der(&ed25519()), id: "ed" },
        Signer {
            algorithm: Algorithm::RS256,
            key: EncodingKey::from_rsa_der(&pair(&rcgen::PKCS_RSA_SHA256)[PKCS8_BYTES..]),
            id: "rsa",
        },
    ]
}

/// A key without its public half (RFC 8410, section 7, version 1): the only form that the library makes a JWK of.
fn ed25519() -> Vec<u8> {
    let der = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key").serialize_der();
    let inner = [0x04, 0x22, 0x04, 0x20];
    let at = der.windows(4).position(|window| window == inner).expect("a seed") + inner.len();
    let head = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
    [&head[..], &inner, &der[at..at + 32]].concat()
}

fn set(signers: &[Signer]) -> Value {
    let one = |signer: &Signer| {
        let mut jwk = Jwk::from_encoding_key(&signer.key, signer.algorithm).expect("public");
        jwk.common.key_id = Some(signer.id.to_owned());
        serde_json::to_value(jwk).expect("JSON")
    };
    json!({ "keys": signers.iter().map(one).collect::<Vec<_>>() })
}

struct Fixture {
    dir: tempfile::TempDir,
    args: CallerArgs,
}

impl Fixture {
    fn new(signers: &[Signer]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (secret, jwks) = (dir.path().join("secret"), dir.path().join("jwks.json"));
        std::fs::write(&secret, format!("{SECRET}\n")).expect("written");
        std::fs::write(&jwks, set(signers).to_string()).expect("written");
        let args = CallerArgs {
            jwt_secret_file: Some(secret),
            jwt_jwks: Some(Jwks::File(jwks)),
            jwt_issuer: vec!["https://id.example".to_owned()],
            jwt_audience: vec!["paceline".to_owned(), "other".to_owned()],
            ..CallerArgs::default()
        };
        Self { dir, args }
    }

    fn open(&self) -> Jwts {
        Jwts::open(&self.args, &LimitArgs::default()).expect("fine").expect("asked for")
    }
}

fn claims() -> Value {
    json!({
        "iss": "https://id.example", "aud": ["x", "paceline"], "sub": "alice", "exp": NOW_S() + 600,
        "nbf": NOW_S(), "scope": "openid service:files jobs",
    })
}

fn token(algorithm: Algorithm, id: Option<&str>, key: &EncodingKey, claims: &Value) -> String {
    let mut header = Header::new(algorithm);
    header.kid = id.map(str::to_owned);
    encode(&header, claims, key).expect("signed")
}

fn of_secret(claims: &Value) -> String {
    token(Algorithm::HS256, None, &EncodingKey::from_secret(SECRET.as_bytes()), claims)
}

fn found(jwts: &Jwts, token: &str) -> Result<Arc<Identity>, Bad> {
    jwts.find(token, Instant::now(), NOW_S()).expect("of the form of a JWT")
}

fn refusal(jwts: &Jwts, token: &str) -> String {
    match found(jwts, token) {
        Err(Bad::Refused(words)) => words,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_algorithm_is_taken_with_its_own_key() {
    let signers = signers();
    let jwts = Fixture::new(&signers).open();
    let identity = found(&jwts, &of_secret(&claims())).expect("HS256");
    assert_eq!(identity.label, "jwt:alice");
    let scopes: Vec<_> = identity.scopes.iter().map(Scope::to_string).collect();
    assert_eq!(scopes, ["service:files", "jobs"]);
    for signer in &signers {
        for id in [Some(signer.id), None] {
            let token = token(signer.algorithm, id, &signer.key, &claims());
            assert!(found(&jwts, &token).is_ok(), "{:?} {id:?}", signer.algorithm);
            let broken = format!("{}A", &token[..token.len() - 1]);
            assert!(found(&jwts, &broken).is_err() || broken == token);
        }
        let named = token(signer.algorithm, Some("nobody's"), &signer.key, &claims());
        assert!(refusal(&jwts, &named).contains("no key"));
    }
    let mut list = claims();
    list["scope"] = Value::Null;
    list["scopes"] = json!(["admin", 7, "nonsense"]);
    assert_eq!(found(&jwts, &of_secret(&list)).expect("a list").scopes, [Scope::Admin]);
    list["scopes"] = Value::Null;
    assert!(found(&jwts, &of_secret(&list)).expect("nothing is allowed").scopes.is_empty());
}

#[test]
fn forgeries_are_refused() {
    let signers = signers();
    let fixture = Fixture::new(&signers);
    let jwts = fixture.open();
    let part = |value: &Value| data_encoding::BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    for alg in ["none", "None", "NONE", "nOnE", "", "HS1"] {
        let (header, body) = (part(&json!({ "alg": alg, "typ": "JWT" })), part(&claims()));
        for forged in [format!("{header}.{body}."), format!("{header}.{body}.AAAA")] {
            assert!(refusal(&jwts, &forged).contains("algorithm"), "{alg}");
        }
    }
    // The public key as HMAC secret, in each form in which it is known: the set, one key of it, its modulus.
    let public = set(&signers).to_string();
    let rsa = set(&signers)["keys"][2].to_string();
    for known in [public.as_str(), rsa.as_str(), "https://id.example"] {
        for id in [None, Some("rsa")] {
            let forged = token(Algorithm::HS256, id, &EncodingKey::from_secret(known.as_bytes()), &claims());
            assert!(found(&jwts, &forged).is_err());
        }
    }
    // Another key under a known id, and a key of another type under it.
    for stranger in super::tests::signers() {
        for id in ["ec", "ed", "rsa"] {
            assert!(found(&jwts, &token(stranger.algorithm, Some(id), &stranger.key, &claims())).is_err());
        }
    }
    let mut header = Header::new(Algorithm::HS256);
    header.crit = Some(vec!["x".to_owned()]);
    let critical = encode(&header, &claims(), &EncodingKey::from_secret(SECRET.as_bytes())).expect("signed");
    assert!(refusal(&jwts, &critical).contains("critical"));
    let strong = token(Algorithm::HS512, None, &EncodingKey::from_secret(SECRET.as_bytes()), &claims());
    assert!(found(&jwts, &strong).is_err(), "an algorithm that is not taken");
    let long =
        json!({ "iss": "https://id.example", "aud": "paceline", "exp": NOW_S() + 9, "x": "x".repeat(TOKEN_BYTES_MAX) });
    assert!(refusal(&jwts, &of_secret(&long)).contains("bytes"));
    for other in ["", "ey", "ey.ey", "ey.a.b.c", "abc.def.ghi", "sk-or-v1"] {
        assert!(jwts.find(other, Instant::now(), NOW_S()).is_none(), "{other}");
    }
    assert!(refusal(&jwts, "eyJ.b.c").contains("malformed"));
}

#[test]
fn claims_are_judged() {
    let fixture = Fixture::new(&signers());
    let jwts = fixture.open();
    let with = |key: &str, value: Value| {
        let mut claims = claims();
        if value.is_null() {
            claims.as_object_mut().expect("object").remove(key);
        } else {
            claims[key] = value;
        }
        of_secret(&claims)
    };
    for (key, value, words) in [
        ("exp", json!(NOW_S() - LEEWAY_S - 5), "expired"),
        ("exp", Value::Null, "malformed"),
        ("exp", json!("soon"), "malformed"),
        ("nbf", json!(NOW_S() + LEEWAY_S + 60), "nbf"),
        ("aud", json!("somebody else"), "aud"),
        ("aud", json!(["a", "b"]), "aud"),
        ("aud", Value::Null, "`aud`"),
        ("iss", json!("https://evil.example"), "iss"),
        ("iss", Value::Null, "`iss`"),
    ] {
        let said = refusal(&jwts, &with(key, value.clone()));
        assert!(said.contains(words), "{key} {value}: {said}");
    }
    assert!(found(&jwts, &with("exp", json!(NOW_S() - LEEWAY_S / 2))).is_ok(), "clocks differ a little");
    assert!(found(&jwts, &with("nbf", json!(NOW_S() + LEEWAY_S / 2))).is_ok());
    assert!(found(&jwts, &with("nbf", Value::Null)).is_ok());
    assert!(found(&jwts, &with("aud", json!("other"))).is_ok());
    let open = Jwts::open(&CallerArgs { jwt_audience: vec![], ..fixture.args.clone() }, &LimitArgs::default());
    let open = open.expect("fine").expect("asked for");
    assert!(refusal(&open, &with("aud", json!("anybody"))).contains("--jwt-audience"));
    assert!(found(&open, &with("aud", Value::Null)).is_ok());
}

#[test]
fn what_was_verified_is_remembered_until_it_ends_or_the_keys_change() {
    let first = signers();
    let fixture = Fixture::new(&first);
    let jwts = fixture.open();
    let token = token(Algorithm::EdDSA, Some("ed"), &first[1].key, &claims());
    let identity = found(&jwts, &token).expect("good");
    assert!(Arc::ptr_eq(&identity, &found(&jwts, &token).expect("good")), "remembered");
    let much_later = NOW_S() + 600 + LEEWAY_S;
    assert!(jwts.find(&token, Instant::now(), much_later).expect("form").is_err());
    assert!(!lock(&jwts.cache).values().any(|c| c.expires_s > much_later), "never past its end");
    // The same file: nothing changes. A broken one: the old keys stay. Another one: the old keys are gone.
    let file = fixture.dir.path().join("jwks.json");
    for broken in ["", "{", "{}", r#"{"keys": []}"#, r#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#] {
        std::fs::write(&file, broken).expect("written");
        jwts.look_at_files();
        assert!(found(&jwts, &token).is_ok(), "{broken}");
    }
    std::fs::write(&file, set(&signers()).to_string()).expect("written");
    jwts.look_at_files();
    assert!(refusal(&jwts, &token).contains("signature"), "a key that was taken away counts no longer");
    std::fs::write(fixture.dir.path().join("secret"), "another secret of at least 32 bytes").expect("written");
    let of_old = of_secret(&claims());
    assert!(found(&jwts, &of_old).is_ok());
    jwts.look_at_files();
    assert!(found(&jwts, &of_old).is_err());
}

#[test]
fn files_that_cannot_be_are_refused_at_the_start() {
    let fixture = Fixture::new(&signers());
    let refused =
        |args: CallerArgs| Jwts::open(&args, &LimitArgs::default()).map(drop).expect_err("refused").to_string();
    for (text, words) in [("short", "bytes"), ("-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0B\n", "PEM")] {
        std::fs::write(fixture.dir.path().join("secret"), text).expect("written");
        let said = refused(fixture.args.clone());
        assert!(said.contains("--jwt-secret-file") && said.contains(words), "{said}");
    }
    let jwks = |text: &str| {
        std::fs::write(fixture.dir.path().join("jwks.json"), text).expect("written");
        refused(CallerArgs { jwt_secret_file: None, ..fixture.args.clone() })
    };
    assert!(jwks("[]").contains("--jwt-jwks"));
    assert!(jwks(&json!({ "keys": vec![json!({}); keys::KEYS_MAX + 1] }).to_string()).contains("at most"));
    let alone = CallerArgs { jwt_issuer: vec!["x".to_owned()], ..CallerArgs::default() };
    assert!(refused(alone).contains("need"));
    assert!(Jwts::open(&CallerArgs::default(), &LimitArgs::default()).expect("fine").is_none());
}

#[test]
fn subjects_share_an_account_over_their_tokens_and_are_bounded() {
    let fixture = Fixture::new(&signers());
    let jwts = fixture.open();
    let of = |sub: &str, exp: u64| {
        let mut claims = claims();
        (claims["sub"], claims["exp"]) = (json!(sub), json!(NOW_S() + exp));
        found(&jwts, &of_secret(&claims)).expect("good")
    };
    assert!(Arc::ptr_eq(&of("bob", 60).account, &of("bob", 61).account));
    assert!(!Arc::ptr_eq(&of("bob", 60).account, &of("eve", 60).account));
    for n in 0..SUBJECTS_MAX + 10 {
        jwts.account(format!("x{n}"));
    }
    assert!(lock(&jwts.accounts).len() <= SUBJECTS_MAX + 1);
    assert_eq!(of("a\r\nb", 60).label, "jwt:ab", "fit for a header");
}
