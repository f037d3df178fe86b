terraform {
  required_version = ">= 1.3"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

locals {
  fifo = endswith(var.topic, ".fifo")
  # As balog_dead_letter = "{topic}-dead" names it; the suffix .fifo stays last.
  dead_letter = local.fifo ? "${trimsuffix(var.topic, ".fifo")}-dead.fifo" : "${var.topic}-dead"
}

resource "aws_sqs_queue" "dead_letter" {
  name                      = local.dead_letter
  fifo_queue                = local.fifo ? true : null
  message_retention_seconds = 1209600
}

resource "aws_sqs_queue" "topic" {
  name                       = var.topic
  fifo_queue                 = local.fifo ? true : null
  visibility_timeout_seconds = var.visibility_timeout
  message_retention_seconds  = 1209600
  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead_letter.arn
    maxReceiveCount     = var.max_receive_count
  })
}

data "aws_iam_policy_document" "worker" {
  statement {
    sid = "Consume"
    actions = [
      "sqs:GetQueueUrl",
      "sqs:GetQueueAttributes",
      "sqs:ReceiveMessage",
      "sqs:DeleteMessage",
      "sqs:ChangeMessageVisibility",
    ]
    resources = [aws_sqs_queue.topic.arn]
  }
  statement {
    sid       = "SendDeadLetters"
    actions   = ["sqs:GetQueueUrl", "sqs:SendMessage"]
    resources = [aws_sqs_queue.dead_letter.arn]
  }
}

data "aws_iam_policy_document" "producer" {
  statement {
    sid       = "Produce"
    actions   = ["sqs:GetQueueUrl", "sqs:SendMessage"]
    resources = [aws_sqs_queue.topic.arn]
  }
}

data "aws_iam_policy_document" "operator" {
  statement {
    sid = "InspectDeadLetters"
    actions = [
      "sqs:GetQueueUrl",
      "sqs:GetQueueAttributes",
      "sqs:ReceiveMessage",
      "sqs:DeleteMessage",
      "sqs:ChangeMessageVisibility",
      "sqs:ListDeadLetterSourceQueues",
      "sqs:ListMessageMoveTasks",
      "sqs:StartMessageMoveTask",
      "sqs:CancelMessageMoveTask",
    ]
    resources = [aws_sqs_queue.dead_letter.arn]
  }
  statement {
    sid       = "Replay"
    actions   = ["sqs:GetQueueUrl", "sqs:GetQueueAttributes", "sqs:SendMessage"]
    resources = [aws_sqs_queue.topic.arn]
  }
}
