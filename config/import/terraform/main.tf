# Literals, variables with a literal default, locals of them, references: as much of HCL as is read.
variable "office" {
  type    = string
  default = "203.0.113.0/24"
}

variable "secret_port" {
  type = number
}

locals {
  prefix = "10.0"
  ports  = { web = 443, app = 8080 }
  name   = "${local.prefix}-net"
}

resource "aws_vpc" "main" {
  cidr_block = "${local.prefix}.0.0/16"
  tags       = { Name = local.name }
}

import {
  to = aws_vpc.main
  id = "vpc-0a1b2c3d4e5f60718"
}

resource "aws_subnet" "app" {
  vpc_id     = aws_vpc.main.id
  cidr_block = "10.0.1.0/24"
}

resource "aws_vpc" "small" {
  cidr_block = "10.9.0.0/24"
}

resource "aws_subnet" "whole" {
  vpc_id     = aws_vpc.small.id
  cidr_block = aws_vpc.small.cidr_block
}

resource "aws_default_network_acl" "main" {
  default_network_acl_id = aws_vpc.main.default_network_acl_id
}

resource "aws_network_acl" "app" {
  vpc_id     = aws_vpc.main.id
  subnet_ids = [aws_subnet.app.id]

  ingress {
    rule_no    = 100
    action     = "allow"
    protocol   = "tcp"
    from_port  = local.ports.web
    to_port    = local.ports["web"]
    cidr_block = "0.0.0.0/0"
  }

  ingress {
    rule_no    = 110
    action     = "allow"
    protocol   = "tcp"
    from_port  = var.secret_port
    to_port    = var.secret_port
    cidr_block = "0.0.0.0/0"
  }

  egress {
    rule_no    = 100
    action     = "allow"
    protocol   = -1
    from_port  = 0
    to_port    = 0
    cidr_block = "0.0.0.0/0"
  }
}

resource "aws_security_group" "app" {
  name        = "app"
  description = "what it admits"
  vpc_id      = aws_vpc.main.id

  ingress {
    description = "the office"
    protocol    = "tcp"
    from_port   = 22
    to_port     = 22
    cidr_blocks = [var.office]
  }

  dynamic "ingress" {
    for_each = [80, 81]
    content {
      protocol    = "tcp"
      from_port   = ingress.value
      to_port     = ingress.value
      cidr_blocks = ["0.0.0.0/0"]
    }
  }
}

resource "aws_vpc_security_group_egress_rule" "dns" {
  security_group_id            = aws_security_group.app.id
  referenced_security_group_id = aws_security_group.app.id
  ip_protocol                  = "udp"
  from_port                    = 53
  to_port                      = 53
}

resource "aws_subnet" "many" {
  for_each   = toset(["a", "b"])
  vpc_id     = aws_vpc.main.id
  cidr_block = "10.0.9.0/24"
}

module "more" {
  source = "./more"
}
