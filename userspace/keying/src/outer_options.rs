//! Outer headers as a policy has them, in the terms of an SA.

use ravelin_esp::{DontFragment, Dscp, EcnMode, FlowLabel, InnerDscp, OuterOptions};
use ravelin_policy as policy;

pub(crate) fn outer_options(header: policy::OuterHeader) -> OuterOptions {
    OuterOptions {
        dont_fragment: match header.dont_fragment {
            policy::DontFragment::Copy => DontFragment::Copy,
            policy::DontFragment::Set => DontFragment::Set,
            policy::DontFragment::Clear => DontFragment::Clear,
        },
        dscp: header.dscp.map_or(Dscp::Copy, Dscp::Set),
        inner_dscp: if header.copy_dscp_inward {
            InnerDscp::Copy
        } else {
            InnerDscp::Keep
        },
        ecn: if header.ecn_compatibility {
            EcnMode::Compatibility
        } else {
            EcnMode::Normal
        },
        flow_label: match header.flow_label {
            policy::FlowLabel::Derived => FlowLabel::Derived,
            policy::FlowLabel::Copy => FlowLabel::Copy,
            policy::FlowLabel::Zero => FlowLabel::Zero,
        },
        hop_limit: header.hop_limit,
    }
}
