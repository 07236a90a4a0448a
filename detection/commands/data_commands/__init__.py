"""The sub-commands of ``resdet data``, one file each."""
