@echo off
REM Secure server: everything needs IPsec, but for the domain controllers, ping and the management station.
netsh ipsec static delete policy name="Secure Server"

netsh ipsec static add filterlist name="All traffic" description="whatever comes and goes"
netsh ipsec static add filter filterlist="All traffic" srcaddr=me dstaddr=any protocol=ANY mirrored=yes
netsh ipsec static add filterlist name="Domain controllers"
netsh ipsec static add filter filterlist="Domain controllers" srcaddr=me dstaddr=10.1.0.10 protocol=any
netsh ipsec static add filter filterlist="Domain controllers" srcaddr=me dstaddr=10.1.0.11 srcport=0 dstport=0
netsh ipsec static add filter filterlist="Infrastructure" srcaddr=me dstaddr=DNS protocol=udp dstport=53
netsh ipsec static add filter filterlist="Infrastructure" srcaddr=me dstaddr=DHCP protocol=udp srcport=68 dstport=67
netsh ipsec static add filter filterlist="Infrastructure" srcaddr=me dstaddr=WINS
netsh ipsec static add filter filterlist="Infrastructure" srcaddr=me dstaddr=time.example.org protocol=udp dstport=123
netsh ipsec static add filterlist "Management"
netsh ipsec static add filter filterlist=Management srca=10.1.2.0 srcm=255.255.255.0 dsta=me prot=tcp dstp=3389
netsh ipsec static add filterlist name=Database
netsh ipsec static add filter filterlist=Database srcaddr=10.1.5.20 dstaddr=me protocol=tcp dstport=1433
netsh ipsec static add filter filterlist=Database srcaddr=10.1.5.21 dstaddr=me protocol=tcp dstport=1433

netsh ipsec static add filteraction name="Pass" action=permit
netsh ipsec static add filteraction name="Require" qmpfs=yes inpass=y soft=n action=negotiate ^
  qmsec="ESP[3DES,SHA1]:100000k/3600s ESP[DES,MD5]:50000k/900s"

netsh ipsec static add policy name="Secure Server" activatedefaultrule=no assign=no mmsecmethods="3DES-SHA1-2"
netsh ipsec static add rule name="Domain controllers" policy="Secure Server" filterlist="Domain controllers" filteraction=Pass
netsh ipsec static add rule name="DNS, DHCP, WINS, NTP" policy="Secure Server" filterlist=Infrastructure filteraction=Pass
netsh ipsec static add rule name="ping" policy="Secure Server" filterlist="All ICMP Traffic" filteraction=Permit
netsh ipsec static add rule name="Management" policy="Secure Server" filterlist=Management filteraction=pass
netsh ipsec static add rule name="Database" policy="Secure Server" filterlist=Database filteraction=Require kerberos=yes
netsh ipsec static add rule name="Everything else" policy="Secure Server" filterlist="All traffic" filteraction=Require kerberos=no psk="correct horse battery staple"

netsh ipsec static set policy name="Secure Server" assign=y > nul
netsh ipsec dynamic set config property=ipsecexempt value=3
netsh ipsec dynamic set config property=bootmode value=stateful
netsh ipsec dynamic set config property=ikelogging value=1
pause
