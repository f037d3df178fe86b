"""Creates the outbox table."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """The table, as ``models.py`` had it first."""

    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="OutboxMessage",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("topic", models.CharField(max_length=255)),
                ("message_group", models.CharField(blank=True, max_length=128)),
                ("deduplication_id", models.CharField(max_length=128)),
                ("body", models.TextField()),
                ("attributes", models.TextField()),
                ("delay", models.PositiveSmallIntegerField(blank=True, null=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("attempts", models.PositiveSmallIntegerField(default=0)),
                ("failed_at", models.DateTimeField(blank=True, null=True)),
                ("reason", models.TextField(blank=True, default="")),
            ],
            options={
                "db_table": "balog_outbox",
                "indexes": [models.Index(fields=("topic", "message_group", "id"), name="balog_outbox_group")],
            },
        ),
    )
