//! Who is admitted, over every kind of credential but a JWT.

use http::StatusCode;

use super::*;

const ADMIN: &str = "s3cret-of-the-admin";

fn house(on_loopback: bool, insecure_no_auth: bool) -> House {
    let callers = Callers { insecure_no_auth, ..Callers::default() };
    House { on_loopback, admin_key: ADMIN.into(), callers: Arc::new(callers) }
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(*name, value.parse().expect("value"));
    }
    map
}

fn asked<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Asked<'a> {
    Asked { peer: "127.0.0.1".parse().expect("ip"), uri, headers }
}

fn judge(house: &House, needs: Needs<'_>, lines: &[(&'static str, &str)]) -> Result<Caller, Denied> {
    let (uri, headers) = (Uri::from_static("/x"), headers(lines));
    house.judge(asked(&uri, &headers), needs).map(|admitted| admitted.caller)
}

fn is_local(judged: &Result<Caller, Denied>) -> bool {
    matches!(judged, Ok(Caller::Local))
}

const HOST: (&str, &str) = ("host", "127.0.0.1:8080");
const FAR: (&str, &str) = ("cf-ray", "x");

#[test]
fn the_admin_key_opens_everything_and_nothing_else_opens_what_needs_it() {
    for house in [house(true, false), house(true, true), house(false, true)] {
        assert!(matches!(judge(&house, Needs::Admin, &[HOST]), Err(Denied::Missing(_))));
        for wrong in
            ["Bearer s3cret", &format!("Basic {ADMIN}"), ADMIN, "Bearer", "Bearer ", &format!("Bearer {ADMIN}x")]
        {
            let judged = judge(&house, Needs::Admin, &[HOST, ("authorization", wrong)]);
            assert_eq!(judged.map(drop), Err(Denied::Wrong), "{wrong}");
        }
        for right in [("authorization", format!("bEARER  {ADMIN} ")), ("x-api-key", ADMIN.to_owned())] {
            assert!(matches!(judge(&house, Needs::Admin, &[HOST, (right.0, &right.1)]), Ok(Caller::Admin)));
        }
    }
    let keyless = House { admin_key: "".into(), ..house(true, true) };
    assert!(judge(&keyless, Needs::Admin, &[HOST, ("authorization", "Bearer ")]).is_err());
}

#[test]
fn who_comes_from_beyond_shows_something() {
    let near = house(true, false);
    assert!(is_local(&judge(&near, Needs::Service("a"), &[HOST])));
    assert!(is_local(&judge(&near, Needs::Service("a"), &[HOST, ("authorization", "Bearer of-the-service")])));
    assert!(matches!(judge(&near, Needs::Service("a"), &[HOST, FAR]), Err(Denied::Missing(_))));
    assert!(matches!(judge(&house(false, false), Needs::Read, &[HOST]), Err(Denied::Missing(_))));
    assert!(is_local(&judge(&house(false, true), Needs::Read, &[HOST, FAR])));
    assert!(is_local(&judge(&house(false, false), Needs::Nothing, &[])));
    let wrong = judge(&near, Needs::Service("a"), &[HOST, FAR, ("authorization", "Bearer no")]);
    assert_eq!(wrong.map(drop), Err(Denied::Wrong));
}

#[test]
fn a_key_may_do_what_its_scopes_say_and_is_counted() {
    let house = house(true, false);
    let wanted = |scopes: &[&str], rate: Option<&str>| Wanted {
        scopes: scopes.iter().map(|s| s.parse().expect("a scope")).collect(),
        rate: rate.map(|r| r.parse().expect("a rate")),
        ..Wanted::default()
    };
    let (record, key) = house.callers.keys.create(wanted(&["service:files"], Some("3/h"))).expect("made");
    let line = ("x-api-key", key.as_str());
    for host in [HOST, ("host", "gateway.example")] {
        let judged = judge(&house, Needs::Service("files"), &[host, line]);
        assert!(matches!(judged, Ok(Caller::Known(_))), "{judged:?}");
    }
    let Err(denied @ Denied::Scope { .. }) = judge(&house, Needs::Service("notes"), &[HOST, line]) else {
        panic!("a narrow key is narrow on loopback too");
    };
    assert_eq!(
        (denied.status(), denied.challenge().expect("told").contains("service:notes")),
        (StatusCode::FORBIDDEN, true)
    );
    assert!(matches!(judge(&house, Needs::Admin, &[HOST, line]), Err(Denied::Scope { .. })));
    assert!(judge(&house, Needs::Service("files"), &[HOST, line]).is_ok(), "the third");
    let Err(denied @ Denied::Rate { .. }) = judge(&house, Needs::Service("files"), &[HOST, line]) else {
        panic!("the fourth is too many");
    };
    assert_eq!((denied.status(), denied.retry_after_s()), (StatusCode::TOO_MANY_REQUESTS, Some(1200)));
    house.callers.keys.revoke(&record.id).expect("revoked");
    assert_eq!(judge(&house, Needs::Service("files"), &[HOST, line]).map(drop), Err(Denied::UnknownKey));
}

#[tokio::test]
async fn the_admin_key_cannot_be_guessed_for_long_and_is_not_lost_at_home() {
    let house = house(true, false);
    let uri = Uri::from_static("/api/admin/tokens");
    let admit = async |lines: &[(&'static str, &str)]| {
        let headers = headers(lines);
        house.admit(asked(&uri, &headers), Needs::Admin).await.map(drop)
    };
    let right = format!("Bearer {ADMIN}");
    let mut refused = 0;
    let wait = loop {
        match admit(&[HOST, FAR, ("authorization", "Bearer guess")]).await {
            Err(Denied::Wrong) => refused += 1,
            Err(Denied::Failures(wait)) => break wait,
            other => panic!("{other:?}"),
        }
        assert!(refused < 100, "never stopped");
    };
    assert!(!wait.is_zero());
    assert!(
        matches!(admit(&[HOST, FAR, ("authorization", &right)]).await, Err(Denied::Failures(_))),
        "not even looked at"
    );
    assert_eq!(admit(&[HOST, ("authorization", &right)]).await, Ok(()), "the operator at the machine");
    // A key cannot be guessed, so it passes.
    let key = house.callers.keys.create(Wanted { scopes: vec![Scope::Admin], ..Wanted::default() }).expect("made").1;
    assert_eq!(admit(&[HOST, FAR, ("x-api-key", &key)]).await, Ok(()));
}

#[test]
fn what_was_shown_to_the_gateway_reaches_no_service() {
    let house = house(true, false);
    let key = house.callers.keys.create(Wanted::default()).expect("made").1;
    let caller = judge(&house, Needs::Service("a"), &[("x-api-key", &key)]).expect("known");
    let stripped = |caller: &Caller, lines: &[(&'static str, &str)]| {
        let mut map = headers(lines);
        strip_credentials(&mut map, caller, ADMIN);
        let mut names: Vec<_> = map.keys().map(|name| name.as_str().to_owned()).collect();
        names.sort();
        names
    };
    let bearer = format!("Bearer {}", *key);
    let admin = format!("Bearer {ADMIN}");
    assert!(stripped(&caller, &[("authorization", &bearer)]).is_empty());
    assert!(stripped(&caller, &[("authorization", &bearer), ("x-api-key", &key)]).is_empty());
    assert_eq!(stripped(&caller, &[("x-api-key", &key), ("authorization", "Bearer theirs")]), ["authorization"]);
    assert_eq!(stripped(&Caller::Admin, &[("authorization", &admin), ("x-api-key", "theirs")]), ["x-api-key"]);
    let local = [("authorization", "Bearer theirs"), ("x-api-key", "theirs")];
    assert_eq!(stripped(&Caller::Local, &local), ["authorization", "x-api-key"]);
}
