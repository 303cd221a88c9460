"""The report's page: pictures, gallery, template."""
