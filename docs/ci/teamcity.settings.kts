// .teamcity/settings.kts: images of pull requests, branches and tags. The VCS root's
// branch specification has "+:refs/heads/*" and "+:refs/tags/*"; agents have cairn,
// cairnd, runc and git.
import jetbrains.buildServer.configs.kotlin.*
import jetbrains.buildServer.configs.kotlin.buildFeatures.pullRequests
import jetbrains.buildServer.configs.kotlin.buildSteps.script
import jetbrains.buildServer.configs.kotlin.triggers.vcs

version = "2024.12"

project {
    buildType(Images)
}

object Images : BuildType({
    name = "Images"
    params {
        param("env.CAIRN_STAGES_STORAGE", "registry.example.com/shop/stages")
        param("env.CAIRN_PROTECTED", "main,refs/tags/v*")
        param("env.REGISTRY_USER", "robot")
        password("env.REGISTRY_PASSWORD", "credentialsJSON:the-id-of-the-token")
    }
    vcs {
        root(DslContext.settingsRoot)
    }
    steps {
        script {
            scriptContent = """
                set -eu
                settings=${'$'}(mktemp -d)
                trap 'rm -rf "${'$'}settings"' EXIT
                cairn ci-env teamcity --registry-user "${'$'}REGISTRY_USER" --registry-password-env REGISTRY_PASSWORD --docker-config "${'$'}settings/docker" --as-file "${'$'}settings/env"
                . "${'$'}settings/env"
                cairn build --report-file cairn-report.json
            """.trimIndent()
        }
    }
    triggers {
        vcs { }
    }
    features {
        pullRequests {
            provider = github {
                authType = vcsRoot()
                filterAuthorRole = PullRequests.GitHubRoleFilter.MEMBER
            }
        }
    }
})
