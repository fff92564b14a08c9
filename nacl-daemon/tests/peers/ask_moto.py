"""Fills moto's server through its API and reads it with the AWS CLI, one answer a file of the directory that is named.

moto keeps what it is told and judges nothing, so what is put in is put in as AWS would have it; where moto says less than AWS
(it makes no rules 32767, and no second page), nothing is added.
"""

import json
import os
import subprocess
import sys

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_PAGER": "",
    "NO_PROXY": "127.0.0.1",
}
os.environ.update(ENVIRONMENT)

import boto3  # noqa: E402
from moto.server import ThreadedMotoServer  # noqa: E402


def named(name, kind):
    return [{"ResourceType": kind, "Tags": [{"Key": "Name", "Value": name}]}]


def fill(ec2):
    """Two tiers: balancers in a public subnet, web servers in a private one, an office that may reach them by SSH."""
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16", TagSpecifications=named("shop", "vpc"))["Vpc"]["VpcId"]
    subnets = {}
    for name, cidr in (("public", "10.0.1.0/24"), ("private", "10.0.2.0/24"), ("spare", "10.0.3.0/24")):
        answer = ec2.create_subnet(VpcId=vpc, CidrBlock=cidr, TagSpecifications=named(name, "subnet"))
        subnets[name] = answer["Subnet"]["SubnetId"]
    office = ec2.create_managed_prefix_list(
        PrefixListName="office", MaxEntries=5, AddressFamily="IPv4",
        Entries=[{"Cidr": "203.0.113.0/24", "Description": "the new building"}],
    )["PrefixList"]["PrefixListId"]
    groups = {}
    for name in ("balancers", "web"):
        answer = ec2.create_security_group(GroupName=name, Description=f"the {name}", VpcId=vpc)
        groups[name] = answer["GroupId"]
    everybody = {"IpRanges": [{"CidrIp": "0.0.0.0/0"}], "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}
    ec2.authorize_security_group_ingress(
        GroupId=groups["balancers"],
        IpPermissions=[{"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, **everybody}],
    )
    balancers = [{"GroupId": groups["balancers"], "Description": "from the balancers"}]
    ec2.authorize_security_group_ingress(
        GroupId=groups["web"],
        IpPermissions=[
            {"IpProtocol": "tcp", "FromPort": 8080, "ToPort": 8080, "UserIdGroupPairs": balancers},
            {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "PrefixListIds": [{"PrefixListId": office}]},
            {"IpProtocol": "icmp", "FromPort": 8, "ToPort": -1, "IpRanges": [{"CidrIp": "10.0.0.0/16"}]},
        ],
    )
    acl = ec2.create_network_acl(VpcId=vpc, TagSpecifications=named("private", "network-acl"))
    acl = acl["NetworkAcl"]["NetworkAclId"]
    for egress, number, action, protocol, cidr, ports in (
        (False, 90, "deny", "-1", "10.0.1.66/32", None),
        (False, 100, "allow", "6", "10.0.1.0/24", (8080, 8080)),
        (False, 110, "allow", "6", "203.0.113.0/24", (22, 22)),
        (True, 100, "allow", "6", "10.0.1.0/24", (1024, 65535)),
        (True, 110, "allow", "6", "203.0.113.0/24", (1024, 65535)),
    ):
        more = {"PortRange": {"From": ports[0], "To": ports[1]}} if ports else {}
        ec2.create_network_acl_entry(
            NetworkAclId=acl, Egress=egress, RuleNumber=number, RuleAction=action, Protocol=protocol, CidrBlock=cidr, **more
        )
    ec2.create_network_acl_entry(
        NetworkAclId=acl, Egress=False, RuleNumber=120, RuleAction="allow", Protocol="1", CidrBlock="10.0.0.0/16",
        IcmpTypeCode={"Type": 8, "Code": -1},
    )
    filters = [{"Name": "association.subnet-id", "Values": [subnets["private"]]}]
    before = ec2.describe_network_acls(Filters=filters)["NetworkAcls"][0]["Associations"]
    before = next(one for one in before if one["SubnetId"] == subnets["private"])
    ec2.replace_network_acl_association(AssociationId=before["NetworkAclAssociationId"], NetworkAclId=acl)
    for name, subnet, group, address in (
        ("web-1", "private", "web", "10.0.2.10"),
        ("balancer", "public", "balancers", "10.0.1.20"),
        # Has the group, and the network ACL denies it.
        ("bad-balancer", "public", "balancers", "10.0.1.66"),
    ):
        ec2.create_network_interface(
            SubnetId=subnets[subnet], Groups=[groups[group]], PrivateIpAddress=address,
            TagSpecifications=named(name, "network-interface"),
        )
    return vpc, office, [*groups.values()]


def main(directory):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        vpc, office, groups = fill(boto3.client("ec2", endpoint_url=endpoint))
        of_vpc = ["--filters", f"Name=vpc-id,Values={vpc}"]
        asked = {
            "acls": ["describe-network-acls", *of_vpc],
            "groups": ["describe-security-groups", *of_vpc],
            "rules": ["describe-security-group-rules", "--filters", "Name=group-id,Values=" + ",".join(groups)],
            "subnets": ["describe-subnets", *of_vpc],
            "interfaces": ["describe-network-interfaces", *of_vpc],
            "vpcs": ["describe-vpcs", "--vpc-ids", vpc],
            "lists": ["describe-managed-prefix-lists", "--prefix-list-ids", office],
            office: ["get-managed-prefix-list-entries", "--prefix-list-id", office],
        }
        aws = os.path.join(os.path.dirname(sys.executable), "aws")
        for name, arguments in asked.items():
            command = [sys.executable, aws, "--endpoint-url", endpoint, "--output", "json", "ec2", *arguments]
            answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
            json.loads(answer)
            with open(os.path.join(directory, f"{name}.json"), "w", encoding="utf-8") as file:
                file.write(answer)
    finally:
        server.stop()


if __name__ == "__main__":
    main(sys.argv[1])
