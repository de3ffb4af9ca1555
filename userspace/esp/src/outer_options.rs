//! What an SA of tunnel mode writes into outer headers, and what it takes from them (RFC 4301 section 5.1.2).

/// The bits of a traffic class that are the DSCP (RFC 2474 section 3); the other two are ECN.
pub(crate) const DSCP_MASK: u8 = 0xfc;

/// How outer headers relate to inner ones. Only tunnel mode has outer headers; transport mode keeps the packet's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterOptions {
    /// Outbound: the DF bit of IPv4.
    pub dont_fragment: DontFragment,
    /// Outbound: the differentiated services code point.
    pub dscp: Dscp,
    /// Inbound: the code point of the decapsulated packet.
    pub inner_dscp: InnerDscp,
    /// Outbound: the ECN field. Inbound there is nothing to choose (RFC 6040 section 4.2).
    pub ecn: EcnMode,
    /// Outbound: the flow label of IPv6.
    pub flow_label: FlowLabel,
    /// Outbound: TTL or hop limit, 1 to 255. The inner packet's is its own affair.
    pub hop_limit: u8,
}

/// The DF bit of outer IPv4 headers; RFC 4301 section 8.1 wants all three choices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DontFragment {
    /// As in the inner packet. An IPv6 packet counts as one with DF: no router may fragment it.
    #[default]
    Copy,
    /// Always.
    Set,
    /// Never: routers may fragment what is sealed, and each packet has an identification of its own.
    Clear,
}

/// The DSCP of outer headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dscp {
    /// The inner packet's: RFC 2983's uniform model.
    #[default]
    Copy,
    /// This one, 0 to 63, for every packet, so that nobody on the way learns of the inner ones: RFC 2983's pipe model.
    Set(u8),
}

/// The DSCP of decapsulated packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InnerDscp {
    /// As it was sealed, which RFC 4301 section 5.1.2 has as the default: RFC 2983's pipe model.
    #[default]
    Keep,
    /// The outer header's, which nothing authenticates: RFC 2983's uniform model.
    Copy,
}

/// The mode of the tunnel's ingress (RFC 6040 section 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EcnMode {
    /// The inner field is copied. For peers that obey RFC 6040, RFC 4301 or the full functionality of RFC 3168, which
    /// every peer does that was keyed by IKEv2.
    #[default]
    Normal,
    /// Outer headers say "not ECN-capable". For peers that would lose marks on the way out of the tunnel.
    Compatibility,
}

/// The flow label of outer IPv6 headers (RFC 6437).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlowLabel {
    /// One for the SA, made from its SPI, so that routers with several paths keep the SA on one and SAs apart. The inner
    /// flows are deliberately not told apart.
    #[default]
    Derived,
    /// The inner packet's; for IPv4, which has none, the derived one.
    Copy,
    /// No label.
    Zero,
}

impl Default for OuterOptions {
    fn default() -> Self {
        Self {
            dont_fragment: DontFragment::default(),
            dscp: Dscp::default(),
            inner_dscp: InnerDscp::default(),
            ecn: EcnMode::default(),
            flow_label: FlowLabel::default(),
            hop_limit: 64,
        }
    }
}
