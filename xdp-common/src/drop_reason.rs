//! Why a packet was dropped: one enum for the kernel side and for user space.

/// Declares the enum together with its names and descriptions, so that the three cannot disagree.
macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $text:literal;)*) => {
        /// Why a packet was dropped.
        ///
        /// Dense from 0: the value is the index into the counters, [`DropReason::name`] is the log string and
        /// the metric label.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[$doc])* #[doc = $text] $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of its value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Number of reasons, the length of a counter array.
            pub const COUNT: usize = Self::ALL.len();

            /// The stable name: snake case, never reused for another meaning.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

drop_reasons! {
    // Parsing, at the driver.
    EthernetTruncated = "ethernet_truncated", "The frame ends inside its Ethernet or VLAN header.";
    VlanTooDeep = "vlan_too_deep", "More than two VLAN tags.";
    IpTruncated = "ip_truncated", "The frame ends inside its IP header.";
    IpBadVersion = "ip_bad_version", "The IP version contradicts the EtherType.";
    IpBadHeaderLength = "ip_bad_header_length", "IPv4 header length below 20 bytes or beyond the packet.";
    IpBadTotalLength = "ip_bad_total_length", "The IP length field exceeds the frame or is below the header.";
    IpBadChecksum = "ip_bad_checksum", "The IPv4 header checksum is wrong (RFC 1812 section 5.2.2).";
    Ipv6ExtensionTruncated = "ipv6_extension_truncated", "The packet ends inside an IPv6 extension header.";
    Ipv6TooManyExtensions = "ipv6_too_many_extensions", "More than eight IPv6 extension headers.";
    TransportTruncated = "transport_truncated", "The packet ends inside its transport header.";
    TransportBadLength = "transport_bad_length", "The UDP length field contradicts the IP length.";
    FragmentTiny = "fragment_tiny", "A first fragment too short for its transport header, or one that rewrites it.";
    FragmentUnknown = "fragment_unknown", "A later fragment that a port filter with block or protect could match.";
    FragmentOverlap = "fragment_overlap", "A fragment that overlaps the first one of its datagram, or another first one.";
    NonIp = "non_ip", "Not IP, and the policy blocks other protocols.";

    // Policy.
    RuleBlock = "rule_block", "A rule with action block matched.";
    DefaultBlock = "default_block", "No rule matched and the policy's default is block.";
    ClearNotAllowed = "clear_not_allowed", "A clear packet arrived for traffic that must be protected.";
    ClearEgress = "clear_egress", "A clear packet that must be protected tried to leave the outer device.";
    AddressUnknown = "address_unknown", "This machine sends from an address that the rules with `me` in force do not speak of yet.";
    NoRuleSet = "no_rule_set", "No rule set is loaded.";
    NoWorker = "no_worker", "No worker serves the receive queue.";
    NoHeadroom = "no_headroom", "The driver left no room for metadata in front of the packet.";

    // ESP before and after decryption.
    SpiReserved = "spi_reserved", "SPI 0 to 255 is reserved (RFC 4303 section 2.1).";
    SpiUnknown = "spi_unknown", "ESP to one of our tunnel endpoints with an SPI of no SA.";
    NatKeepalive = "nat_keepalive", "A NAT keepalive of a peer, consumed as it should be (RFC 3948 section 2.3).";
    PeerMoved = "peer_moved", "Authentic ESP from another address or port than the peer's; told of, and not taken (RFC 7296 section 2.23).";
    SpiWrongEndpoint = "spi_wrong_endpoint", "The SPI is known but the packet's addresses or encapsulation are not the SA's.";
    EspTruncated = "esp_truncated", "Too short for an ESP header, IV, trailer and ICV.";
    AhTruncated = "ah_truncated", "The packet ends inside its authentication header.";
    AhLength = "ah_length", "The authentication header's length field is not that of the SA's algorithm (RFC 4302 section 2.2).";
    AhHeaders = "ah_headers", "More than 512 bytes of IP headers in front of the authentication header.";
    EspFragment = "esp_fragment", "ESP that is a fragment of an IP packet still (RFC 4303 section 3.4.1).";
    ReassemblyTimeout = "reassembly_timeout", "A fragment of an ESP packet whose others did not come in time.";
    ReassemblyOverlap = "reassembly_overlap", "Fragments of an ESP packet with bytes in common; all of the packet is dropped (RFC 5722).";
    ReassemblyDuplicate = "reassembly_duplicate", "A fragment of an ESP packet that was there already.";
    ReassemblyMalformed = "reassembly_malformed", "A fragment of an ESP packet that fits no packet, or contradicts others of its packet.";
    ReassemblyFull = "reassembly_full", "A fragment of an ESP packet that had to make room for newer ones.";
    EspMisaligned = "esp_misaligned", "The ciphertext is not a multiple of four bytes, or of the cipher's block (RFC 4303 section 2.4).";
    SequenceZero = "sequence_zero", "Sequence number 0 with anti-replay enabled.";
    ReplayOld = "replay_old", "The sequence number is left of the replay window.";
    ReplayDuplicate = "replay_duplicate", "The sequence number was seen before.";
    IcvMismatch = "icv_mismatch", "The integrity check failed.";
    PadLength = "pad_length", "The pad length exceeds the payload.";
    PadContent = "pad_content", "The padding is not 1, 2, 3, ... (RFC 4303 section 2.4).";
    NextHeader = "next_header", "The next header does not fit the SA's mode.";
    EcnNotCapable = "ecn_not_capable", "Congestion marked on the outer header, but the inner packet is not ECN-capable (RFC 6040 section 4.2).";
    Dummy = "dummy", "A dummy packet (next header 59), discarded as it should be.";
    InnerMalformed = "inner_malformed", "The decrypted packet is not a well-formed IP packet.";
    InnerPolicy = "inner_policy", "The decrypted packet matches no protect rule of the SA's connection (RFC 4301 section 5.2).";

    // Sending.
    SaMissing = "sa_missing", "The connection has no SA to send with.";
    SequenceExhausted = "sequence_exhausted", "No sequence number is left or may be used yet; the SA does not send.";
    LifetimeExpired = "lifetime_expired", "A hard limit of the SA's lifetime is reached: seconds, bytes or packets (RFC 4301 section 4.4.2.1).";
    FragmentTransport = "fragment_transport", "A fragment for a transport-mode SA, which protects whole datagrams only (RFC 4303 section 3.3.4).";
    TtlExceeded = "ttl_exceeded", "TTL or hop limit reached zero.";
    PacketTooBig = "packet_too_big", "The packet does not fit the path MTU after encapsulation.";
    NoRoute = "no_route", "No route to the next hop over the expected device.";
    NoNeighbour = "no_neighbour", "The next hop's link-layer address did not resolve in time.";
    LocalDelivery = "local_delivery", "A decrypted packet for the gateway itself; gateway mode forwards only.";
    FrameShort = "frame_short", "The frame buffer has no room for the headers or the trailer.";
    FrameTooLong = "frame_too_long", "The frame is longer than packet memory takes, which every packet of the MTU fits; GRO or LRO made it (`ethtool -K`), or the MTU was raised since the start.";
    NoFrame = "no_frame", "No packet memory was free for a fragment or a jumbo packet.";
    MetadataInvalid = "metadata_invalid", "The metadata in front of a redirected packet is not ours or contradicts it.";
    IcmpUnproven = "icmp_unproven", "An ICMP error about the path MTU that quotes nothing that was sent lately (RFC 4301 section 8.2).";
    IcmpNoNews = "icmp_no_news", "An ICMP error about the path MTU that says what is known.";
    IcmpTooOften = "icmp_too_often", "More changes of path MTUs by ICMP errors than one in ten milliseconds.";
    ReceiveOverrun = "receive_overrun", "The worker did not keep up: the kernel found no room to receive into.";
    TransmitFailed = "transmit_failed", "The transmit ring stayed full or the device refused the frame.";
}

impl DropReason {
    /// The reason with this value.
    #[must_use]
    pub const fn from_index(index: usize) -> Option<Self> {
        if index < Self::COUNT {
            Some(Self::ALL[index])
        } else {
            None
        }
    }

    /// The index of the reason's counter.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::DropReason;

    #[test]
    fn values_are_dense_and_names_unique() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert_eq!(DropReason::from_index(index), Some(*reason));
            assert!(
                DropReason::ALL[..index]
                    .iter()
                    .all(|other| other.name() != reason.name())
            );
        }
        assert_eq!(DropReason::from_index(DropReason::COUNT), None);
    }
}
