use super::*;
use alloc::string::ToString;

fn synthetic(part: &str) -> String {
    let json = include_str!("../../../../tests/vectors/tdx/attest/synthetic/good-v4.collateral.json");
    let collateral: serde_json::Value = serde_json::from_str(json).unwrap();
    collateral[part].as_str().unwrap().into()
}

/// Which level is the best does not depend on where it stands.
#[test]
fn levels_have_the_order_of_their_versions() {
    let text = synthetic("tcb_info");
    let best_first = TcbInfo::parse(text.as_bytes()).unwrap();
    assert!(best_first.tcb_levels.is_sorted_by(|one, other| one.tcb > other.tcb));
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["tcbLevels"].as_array_mut().unwrap().reverse();
    let turned = TcbInfo::parse(value.to_string().as_bytes()).unwrap();
    let versions = |info: &TcbInfo| info.tcb_levels.iter().map(|level| level.tcb.sgx[0].svn).collect::<Vec<_>>();
    assert_eq!(versions(&turned), versions(&best_first));
}

/// Of levels whose SGX components are the same, the one with the higher PCESVN comes first, whatever its TDX components are
/// and wherever it stands: Intel's library sorts them so, and so does `dcap-qvl`.
#[test]
fn levels_with_a_higher_pcesvn_come_before_those_with_higher_tdx_components() {
    let mut value: serde_json::Value = serde_json::from_str(&synthetic("tcb_info")).unwrap();
    let any = value["tcbLevels"][0].clone();
    let level = |pce_svn: u16, tdx: u8| {
        let mut level = any.clone();
        level["tcb"]["pcesvn"] = pce_svn.into();
        level["tcb"]["tdxtcbcomponents"][2]["svn"] = tdx.into();
        level
    };
    let [of_pce, of_tdx] = [level(13, 1), level(11, 9)];
    for levels in [[&of_pce, &of_tdx], [&of_tdx, &of_pce]] {
        value["tcbLevels"] = levels.into_iter().cloned().collect();
        let info = TcbInfo::parse(value.to_string().as_bytes()).unwrap();
        let found: Vec<_> = info.tcb_levels.iter().map(|level| (level.tcb.pce_svn, level.tcb.tdx[2].svn)).collect();
        assert_eq!(found, [(13, 1), (11, 9)]);
    }
}

/// no-silent-trust: fields that are missing, there twice, of another form or of a meaning that is not known.
#[test]
fn no_silent_trust_tcb_info_that_is_none() {
    let text = synthetic("tcb_info");
    for (from, to, expected) in [
        (r#""version":3"#, r#""version":2"#, "\"TDX\" of version 2, not TCB info \"TDX\" of version 3"),
        (r#""id":"TDX","#, r#""id":"SGX","#, "\"SGX\" of version 3, not TCB info \"TDX\" of version 3"),
        (r#""id":"TDX","#, "", "\"\" of version 3, not TCB info \"TDX\" of version 3"),
        (r#""tcbType":0"#, r#""tcbType":1"#, "of TCB type 1, which is unknown"),
        (r#""tcbType":0"#, r#""tcbType":0,"tcbType":0"#, "malformed: duplicate field `tcbType`"),
        (r#""tcbType":0,"#, "", "malformed: missing field `tcbType`"),
        (r#""pceId":"0000""#, r#""pceId":"000""#, "malformed: \"000\" is not 4 hexadecimal digits"),
        (r#""pceId":"0000""#, r#""pceId":"00000""#, "malformed: \"00000\" is not 4 hexadecimal digits"),
        (r#""pceId":"0000""#, r#""pceId":"00+0""#, "malformed: \"00+0\" is not 4 hexadecimal digits"),
        ("2026-05-01T00:00:00Z", "2026-05-01", "malformed: \"2026-05-01\" is no date and time in UTC"),
        (r#""tcbStatus":"UpToDate""#, r#""tcbStatus":"Fine""#, "malformed: the TCB status \"Fine\" is unknown here"),
        (
            r#""tcbStatus":"UpToDate""#,
            r#""tcbStatus":"ConfigurationNeeded""#,
            "malformed: the TCB status \"ConfigurationNeeded\" is unknown here",
        ),
        (r#"{"svn":5},"#, "", "malformed: invalid length 15, expected an array of length 16"),
        (r#"{"svn":5},"#, r#"{"svn":5},{"svn":5},"#, "malformed: trailing characters"),
        (r#"{"svn":5},"#, r#"{"svn":256},"#, "malformed: invalid value: integer `256`, expected u8"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        let error = TcbInfo::parse(changed.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{from}: {error}");
    }
    for cut in 0..text.len() {
        assert!(TcbInfo::parse(&text.as_bytes()[..cut]).is_err());
    }
    assert!(TcbInfo::parse(&[text.as_bytes(), b"{}"].concat()).is_err());
}

#[test]
fn no_silent_trust_an_identity_that_is_none() {
    let text = synthetic("qe_identity");
    assert!(QeIdentity::parse(text.as_bytes()).is_ok());
    assert!(QeIdentity::parse(text.replace(r#""version":2"#, r#""version":3"#).as_bytes()).is_ok());
    for (from, to, expected) in [
        (r#""version":2"#, r#""version":1"#, "\"TD_QE\" of version 1, not an identity \"TD_QE\" of version 2 or 3"),
        ("TD_QE", "QE", "\"QE\" of version 2, not an identity \"TD_QE\" of version 2 or 3"),
        (r#""isvprodid":2"#, r#""isvprodid":2,"isvprodid":2"#, "malformed: duplicate field `isvprodid`"),
        (r#""isvprodid":2"#, r#""isvprodid":65536"#, "malformed: invalid value: integer `65536`, expected u16"),
        (r#""miscselectMask":"FFFFFFFF","#, "", "malformed: missing field `miscselectMask`"),
    ] {
        let error = QeIdentity::parse(text.replacen(from, to, 1).as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{from}: {error}");
    }
}
