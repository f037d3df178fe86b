output "queue_url" {
  description = "URL of the topic."
  value       = aws_sqs_queue.topic.url
}

output "worker_policy" {
  description = "IAM policy of workers and engines, as JSON."
  value       = data.aws_iam_policy_document.worker.json
}

output "producer_policy" {
  description = "IAM policy of producers, as JSON."
  value       = data.aws_iam_policy_document.producer.json
}

output "operator_policy" {
  description = "IAM policy for inspecting and replaying dead letters, as JSON."
  value       = data.aws_iam_policy_document.operator.json
}
