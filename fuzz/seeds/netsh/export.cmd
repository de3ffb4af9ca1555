REM Written by `ravelin export netsh`.
netsh ipsec static add policy name="Ravelin" activatedefaultrule=no assign=no
netsh ipsec static add filteraction name="ravelin permit" action=permit
netsh ipsec static add filteraction name="ravelin block" action=block
netsh ipsec static add filterlist name="branch"
netsh ipsec static add filter filterlist="branch" srcaddr=10.1.0.0 srcmask=255.255.0.0 dstaddr=10.2.0.0 dstmask=255.255.0.0 mirrored=no
netsh ipsec static add filterlist name="web"
netsh ipsec static add filter filterlist="web" srcaddr=any dstaddr=me protocol=TCP dstport=80 mirrored=yes
netsh ipsec static add filter filterlist="web" srcaddr=any dstaddr=me protocol=TCP dstport=443 mirrored=yes
netsh ipsec static add filter filterlist="web" srcaddr=10.0.0.0 srcmask=255.0.0.0 dstaddr=intranet.example.org mirrored=yes
netsh ipsec static add filter filterlist="web" srcaddr=me dstaddr=DNS protocol=UDP dstport=53 mirrored=yes
netsh ipsec static add rule name="Web" policy="Ravelin" filterlist="web" filteraction="ravelin permit"
netsh ipsec static add filteraction name="ravelin protect" inpass=no soft=no action=negotiate qmsecmethods="ESP[3DES,SHA1]"
netsh ipsec static add filterlist name="branch back"
netsh ipsec static add filter filterlist="branch back" srcaddr=10.2.0.0 srcmask=255.255.0.0 dstaddr=10.1.0.0 dstmask=255.255.0.0 mirrored=no
netsh ipsec static add rule name="branch" policy="Ravelin" filterlist="branch" filteraction="ravelin protect" tunnel=192.0.2.2
netsh ipsec static add rule name="branch back" policy="Ravelin" filterlist="branch back" filteraction="ravelin protect" tunnel=192.0.2.1
netsh ipsec static add rule name="web 2" policy="Ravelin" filterlist="web" filteraction="ravelin block" activate=no
netsh ipsec static add filterlist name="everything else"
netsh ipsec static add filter filterlist="everything else" srcaddr=any dstaddr=any
netsh ipsec static add rule name="everything else" policy="Ravelin" filterlist="everything else" filteraction="ravelin block"
netsh ipsec static set policy name="Ravelin" assign=yes
