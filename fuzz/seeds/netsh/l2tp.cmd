:: An L2TP server: UDP 1701 only inside IPsec, from anybody and to the two known branch servers.
netsh -c ipsec static add policy name=L2TP assign=yes
netsh ipsec static add filterlist name="L2TP clients"
netsh ipsec static add filter "L2TP clients" any me "from anybody" udp yes dstport=1701
netsh ipsec static add filterlist name="L2TP branches"
netsh ipsec static add filter "L2TP branches" me 198.51.100.7 protocol=17 srcport=1701 dstport=1701
netsh ipsec static add filter "L2TP branches" me 198.51.100.8 protocol=17 srcport=1701 dstport=1701
netsh ipsec static add filteraction name=l2tp soft=no act=neg qmsecmethods="AH[MD5]+ESP[DES,None] ESP[None,SHA1]"
netsh ipsec static add rule name=clients policy=l2tp filterlist="l2tp clients" filteraction=L2TP psk=Winter2003
netsh ipsec static add rule name=branches policy=l2tp filterlist="l2tp branches" filteraction=L2TP psk=Winter2003
netsh ipsec static add rule name=other policy=l2tp filterlist="L2TP branches" filteraction="Request Security (Optional)" activate=no
netsh ipsec dynamic add qmpolicy name=q1 qmsec=ESP[3DES,SHA1]
netsh ipsec dynamic add rule srcaddr=me dstaddr=203.0.113.0 dstmask=24 mmpolicy=m qmpolicy=q1 protocol=tcp srcport=0 dstport=25 mirrored=yes conntype=all actioninbound=permit actionoutbound=block
netsh ipsec dynamic add rule srcaddr=198.51.100.9 dstaddr=me mmpolicy=m qmpolicy=q1 protocol=tcp srcport=0 dstport=443 mirrored=yes actioninbound=negotiate actionoutbound=negotiate psk=Winter2003
netsh interface ip set address "Local Area Connection" dhcp
