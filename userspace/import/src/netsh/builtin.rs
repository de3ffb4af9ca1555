//! What a Windows server has from the start, and scripts may use without defining it.

use std::sync::LazyLock;

use crate::netsh::address::Side;
use crate::netsh::store::{Action, Filter, FilterAction, FilterList};

/// Filter lists that a Windows server has from the start.
pub(super) fn builtin_list(name: &str) -> Option<&'static FilterList> {
    fn list(protocol: Option<u8>) -> FilterList {
        let filter = Filter {
            line: 0,
            source: Side::Me,
            destination: Side::Known(ravelin_policy::Address::Any),
            protocol,
            source_port: None,
            destination_port: None,
            mirrored: true,
        };
        FilterList {
            line: 0,
            filters: vec![filter],
        }
    }
    static ALL_IP: LazyLock<FilterList> = LazyLock::new(|| list(None));
    static ALL_ICMP: LazyLock<FilterList> = LazyLock::new(|| list(Some(1)));
    match name.to_ascii_lowercase().as_str() {
        "all ip traffic" => Some(&ALL_IP),
        "all icmp traffic" => Some(&ALL_ICMP),
        _ => None,
    }
}

/// Filter actions that a Windows server has from the start.
pub(super) fn builtin_action(name: &str) -> Option<FilterAction> {
    let (action, accept_unsecured, fallback_clear) = match name.to_ascii_lowercase().as_str() {
        "permit" => (Action::Permit, false, false),
        "request security (optional)" => (Action::Negotiate, true, true),
        "require security" => (Action::Negotiate, true, false),
        _ => return None,
    };
    Some(FilterAction {
        action,
        accept_unsecured,
        fallback_clear,
        ..FilterAction::new(0)
    })
}
